"""Learning rate schedule and optimizer."""

import copy
import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import OmegaConf

from sdst.config.compose import compose
from sdst.config.schema import Optimization
from sdst.errors import UserError
from sdst.training.optim import make_optimizer


@given(
    st.integers(0, 20_000), st.integers(1, 300), st.integers(1, 2000), st.integers(1, 40), st.floats(0.1, 1)
)
def test_factor_is_linear_warm_up_times_step_decay(
    step: int, steps_per_epoch: int, warmup: int, decay_epochs: int, decay: float
) -> None:
    optimization = Optimization(warmup_steps=warmup, decay_epochs=decay_epochs, decay=decay)
    expected = 1.0 if step >= warmup else 0.001 * (1 - step / warmup) + 1.0 * (step / warmup)
    for _ in range(step // steps_per_epoch // decay_epochs):
        expected *= decay
    assert optimization.factor(step, steps_per_epoch) == pytest.approx(expected, rel=1e-9)


@given(
    st.integers(1, 5),
    st.lists(st.integers(1, 12), max_size=4, unique=True).map(sorted),
    st.integers(1, 6),
    st.sampled_from([0.1, 0.5]),
)
def test_the_rate_falls_after_the_listed_epochs_or_after_every_so_many(
    steps_per_epoch: int, listed: list[int], every: int, decay: float
) -> None:
    def factors(decay_epochs: int | list[int]) -> list[float]:
        options = Optimization(warmup_steps=0, warmup_ratio=1, decay_epochs=decay_epochs, decay=decay)
        return [options.factor(step, steps_per_epoch) for step in range(14 * steps_per_epoch)]

    for decay_epochs, falls_after in ((listed, listed), (every, range(every, 14, every))):
        expected, rate = [], 1.0
        for epoch in range(1, 15):
            expected += [rate] * steps_per_epoch
            if epoch in falls_after:
                rate *= decay
        assert factors(decay_epochs) == pytest.approx(expected, rel=1e-12)
    assert factors(every) == factors(list(range(every, 14, every)))


BAD_DECAYS = [0, -1, 2.0, True, "20", None, [0, 3], [3, 3], [5, 2], [1.5], [True], ["a"], [[1]], {"a": 1}]


@pytest.mark.parametrize("value", BAD_DECAYS)
def test_decay_epochs_that_name_no_epochs_are_refused_in_one_line(value: object) -> None:
    with pytest.raises(UserError, match=r"^optim\.decay_epochs must be [^\n]* got [^\n]*$"):
        Optimization(decay_epochs=value)


@pytest.mark.parametrize(("value", "expected"), [("7", 7), ("[20]", [20]), ("[30,45]", [30, 45]), ("[]", [])])
def test_overrides_give_decay_epochs_as_a_number_or_a_list(value: str, expected: int | list[int]) -> None:
    optim: Any = OmegaConf.to_object(compose([f"optim.decay_epochs={value}"])).optim
    assert optim.decay_epochs == expected
    assert type(optim.decay_epochs) is type(expected)


def test_defaults_equal_the_papers() -> None:
    optimization, epoch = Optimization(), 226
    assert (optimization.lr, optimization.weight_decay) == (1e-4, 1e-4)
    for step, expected in {
        0: 0.001,
        1000: 0.5005,
        2000: 1,
        20 * epoch - 1: 1,
        20 * epoch: 0.1,
        40 * epoch - 1: 0.1,
        40 * epoch: 0.01,
    }.items():
        assert optimization.factor(step, epoch) == pytest.approx(expected)


def test_no_warm_up_starts_at_the_full_rate() -> None:
    assert Optimization(warmup_steps=0, warmup_ratio=1.0).factor(0, 10) == 1


def test_optimizer_holds_every_parameter_once_with_the_scheduled_rate() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    optimizer, schedule = make_optimizer(
        Optimization(lr=2.0, weight_decay=0.3, warmup_steps=4), model.parameters(), 2
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert group["weight_decay"] == 0.3
    for step in range(6):
        assert group["lr"] == pytest.approx(2 * min(1, 0.001 + 0.999 * step / 4))
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("accumulate", "repeat"), [(1, 1), (2, 1), (1, 2)])
def test_a_run_follows_the_schedule_in_optimizer_steps(
    train: Callable[..., Path], tmp_path: Path, accumulate: int, repeat: int
) -> None:
    run_dir = train(
        tmp_path / "run",
        "optim.decay_epochs=2",
        "trainer.max_epochs=4",
        f"trainer.accumulate_grad_batches={accumulate}",
        f"data.repeat={repeat}",
    )
    with open(run_dir / "csv/version_0/metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["lr"]]
    batches = -(-10 * repeat // 4)  # 10 queries in batches of 4
    steps = -(-batches // accumulate)
    logged = [float(row["lr"]) for row in rows]
    expected = [
        1e-3 * min(1, 0.001 + 0.999 * step / 4) * 0.1 ** (step // steps // 2) for step in range(4 * steps)
    ]
    distinct = [value for value, _ in itertools.groupby(logged)]
    assert distinct == pytest.approx([value for value, _ in itertools.groupby(expected)], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("limit", [1e-8, 35.0])
def test_mixed_precision_clips_the_unscaled_gradient(
    precision: Literal["bf16-mixed", "16-mixed"], limit: float
) -> None:
    """With a gradient as small as AdamW's eps, the step depends on its size, so a wrong scale shows."""
    torch.manual_seed(0)
    ours, plain = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    plain.load_state_dict(ours.state_dict())
    optimizer, _ = make_optimizer(Optimization(lr=0.1, warmup_steps=0, warmup_ratio=1), ours.parameters(), 1)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=1e-4, foreach=False)
    plugin = MixedPrecision(precision, "cpu")
    for features in torch.randn(3, 4, 3):
        for model in (ours, plain):
            model.zero_grad()
        plain(features).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), limit)
        reference.step()
        loss = ours(features).square().mean()
        (loss if plugin.scaler is None else plugin.scaler.scale(loss)).backward()
        if plugin.scaler is not None:
            plugin.scaler.unscale_(optimizer)
        plugin.clip_gradients(optimizer, limit)
        if plugin.scaler is None:
            optimizer.step()
        else:
            plugin.scaler.step(optimizer)
            plugin.scaler.update()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_a_run_begun_with_another_kernel_goes_on_with_it_to_the_same_bits() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 4, 3)
    whole = torch.nn.Linear(3, 2)
    before = torch.optim.AdamW(whole.parameters(), lr=0.1, weight_decay=1e-4, foreach=True)

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
        model.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    for batch in features[:3]:
        step(whole, before, batch)
    resumed = torch.nn.Linear(3, 2)
    resumed.load_state_dict(whole.state_dict())
    options = Optimization(lr=0.1, warmup_steps=0, warmup_ratio=1)
    after, _ = make_optimizer(options, resumed.parameters(), 1)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for batch in features[3:]:
        step(whole, before, batch)
        step(resumed, after, batch)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
