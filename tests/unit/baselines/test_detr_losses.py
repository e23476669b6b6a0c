"""Losses of the DETR methods in training: neither padding nor the place in a batch changes them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny_baselines import SAMPLES, build, configured, make_batch
from sdst.losses.criterion import Criterion
from sdst.types import Batch

METHODS = ["moment_detr", "qd_detr", "tr_detr", "bam_detr"]
NEAR = {"atol": 1e-5, "rtol": 1e-4}
CONTENT = {f"decoder.layers.0.self_{part}.weight" for part in ("query", "key", "value")}
WITHOUT_GRADIENT = {
    "moment_detr": {"read_saliency.bias"},  # margins are differences of two clips
    "qd_detr": CONTENT,  # the content of queries is 0 before the first layer
    "tr_detr": CONTENT,
    "bam_detr": set[str](),
}


@pytest.fixture
def model(name: str) -> nn.Module:
    return build(name, layer_dropout=0.0).train()


def criterion(name: str, model: Any) -> Criterion:
    loss = configured(name)["loss"]
    return model.criterion(loss["weights"], match_weights=loss["match_weights"])


def batch_of(order: tuple[int, ...] = (0, 1, 2, 3), padding: int = 0) -> Batch:
    batch = make_batch(1, order, extra_clips=padding, extra_tokens=padding)
    return replace(batch, saliency=(batch.saliency > 0).float())


def assert_near(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, **NEAR, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_padding_does_not_change_the_losses_of_one_sample(name: str, model: nn.Module) -> None:
    losses = criterion(name, model)
    for i in range(len(SAMPLES)):
        expected, got = (
            losses.by_level(model(*batch.inputs(), labels=batch), batch)
            for batch in (batch_of((i,)), batch_of((i,), padding=7))
        )
        assert_near(got, expected)


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_neither_padding_nor_the_first_sample_changes_the_loss(name: str, model: nn.Module) -> None:
    losses = criterion(name, model)
    # Wrong words are those of the next sample, which turning the batch keeps.
    expected, *others = (
        losses.by_level(model(*batch.inputs(), labels=batch), batch)
        for batch in (batch_of(), batch_of(padding=7), batch_of((2, 3, 0, 1)))
    )
    for other in others:
        assert_near(other, expected)


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_gets_a_finite_gradient(name: str, model: nn.Module) -> None:
    batch = batch_of(padding=2)
    with torch.no_grad():
        # A moment inside a true one, or around it, would not move: gradients of its start and end would cancel.
        model.get_parameter("queries" if name == "moment_detr" else "decoder.queries").mul_(5)
    criterion(name, model)(model(*batch.inputs(), labels=batch), batch)[0].backward()
    without = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == WITHOUT_GRADIENT[name]
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
