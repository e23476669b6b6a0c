"""Benchmarks: rounds, counts and reports. How fast anything is, no test asks."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conftest import TINY
from sdst.bench import costs
from sdst.bench.rounds import Spread, interleave, ratio, spread
from sdst.bench.workload import Shape, Workload, random_batch
from sdst.cli import main

SMALL = [override for override in TINY if override.startswith("model.")]
SHAPE = Shape(batch=3, clips=6, tokens=4, queries=4, levels=2, video_dim=12, text_dim=10)
SIZES = [item for name, size in asdict(SHAPE).items() for item in (f"--{name.replace('_', '-')}", str(size))]


class Machine:
    """A clock, and jobs that take a known time on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.slowness = 1.0

    def clock(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> None:
        self.done.append(name)
        self.now += seconds * self.slowness


def test_every_round_runs_all_jobs_in_alternating_order_after_an_uncounted_one() -> None:
    machine = Machine()

    def first() -> None:  # as if it compiled something
        machine.work("a", 100 if machine.done.count("a") == 0 else 2)

    seconds = interleave({"a": first, "b": partial(machine.work, "b", 5)}, 3, machine.clock)
    assert seconds == {"a": [2, 2, 2], "b": [5, 5, 5]}
    assert "".join(machine.done) == "ab" + "ab" + "ba" + "ab"


def test_a_round_on_a_busy_machine_changes_times_and_leaves_ratios() -> None:
    machine = Machine()

    def slow_from_the_second_round_on() -> None:
        machine.slowness = 1.0 if machine.done.count("a") < 2 else 10.0
        machine.work("a", 3)

    seconds = interleave({"a": slow_from_the_second_round_on}, 1, machine.clock)
    assert seconds == {"a": [3]}
    assert ratio([2, 20, 2], [4, 40, 8]) == Spread(median=0.5, lowest=0.25, highest=0.5)
    assert spread([5, 1, 2]) == Spread(median=2, lowest=1, highest=5)
    assert str(spread([5, 1, 2])) == "2 (1 to 5)"


def test_operations_of_a_linear_layer_are_those_of_its_three_products() -> None:
    x, linear = torch.randn(7, 5, requires_grad=True), nn.Linear(5, 3)
    assert costs.count_flops(lambda: linear(x)) == 2 * 7 * 5 * 3
    assert costs.count_flops(lambda: linear(x).sum().backward()) == 3 * 2 * 7 * 5 * 3


def test_operations_of_attention_are_counted_on_any_device() -> None:
    q, k, v = (torch.randn(2, 4, length, 8, requires_grad=True) for length in (5, 6, 6))
    forward = 2 * (2 * 2 * 4 * 5 * 6 * 8)
    assert costs.count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == forward


def test_saved_bytes_are_of_tensors_that_backward_needs_each_once() -> None:
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    given = (x, weight)
    assert costs.saved_bytes(lambda: (x * weight).sum(), given) == 0
    assert costs.saved_bytes(lambda: x.exp().sum(), given) == 4 * 8 * 4
    assert costs.saved_bytes(lambda: x.exp().sum(), ()) == 4 * 8 * 4
    assert costs.saved_bytes(lambda: (x * weight).sum(), ()) == (4 * 8 + 8) * 4

    def one_tensor_and_views_of_it() -> torch.Tensor:
        y = x.exp()
        return (y.flatten() * y.view(-1)).sum()

    assert costs.saved_bytes(one_tensor_and_views_of_it, given) == 4 * 8 * 4


def test_what_is_dropped_before_backward_is_not_saved() -> None:
    x = torch.randn(1000, requires_grad=True)

    def forward() -> torch.Tensor:
        for _ in range(3):
            x.exp().sin()
        return x.exp().sum()

    assert costs.saved_bytes(forward, [x]) == 4000


def test_a_random_batch_is_padded_and_labelled_like_a_real_one() -> None:
    batch = random_batch(SHAPE)
    assert len(batch) == 3
    assert batch.video.shape == (3, 2, 6, 12)
    assert batch.text.shape == (3, 2, 4, 10)
    assert batch.video.dtype == torch.float16
    assert batch.video_mask[0].all()
    assert batch.text_mask[0].all()
    assert (batch.video_mask.sum(dim=1) >= 3).all()
    assert (batch.video_mask.int().diff(dim=1) <= 0).all()  # a prefix of ones
    assert torch.equal(batch.video.ne(0).any(dim=-1).all(dim=1), batch.video_mask)
    assert torch.equal(batch.text.ne(0).any(dim=-1).all(dim=1), batch.text_mask)
    assert torch.equal(batch.num_clips, batch.video_mask.sum(dim=1).float())
    centre, width = batch.moments[batch.moment_mask].T
    assert ((centre - width / 2 >= 0) & (centre + width / 2 <= 1)).all()
    assert batch.moment_mask.any(dim=1).all()
    assert (batch.saliency.gather(1, batch.positive_clip[:, None]) > 0).all()
    assert (batch.saliency[~batch.video_mask] == 0).all()


def test_a_step_trains_and_inference_does_not() -> None:
    workload = Workload(SMALL, SHAPE)
    before = {name: value.clone() for name, value in workload.module.named_parameters()}
    workload.step()
    assert any(not torch.equal(value, before[name]) for name, value in workload.module.named_parameters())
    after = {name: value.clone() for name, value in workload.module.named_parameters()}
    workload.module.eval()
    predictions = workload.decode(workload.infer())
    assert [prediction.qid for prediction in predictions] == [0, 1, 2]
    assert predictions[0].windows.shape == (4, 3)
    assert all(torch.equal(value, after[name]) for name, value in workload.module.named_parameters())


def test_mixed_precision_keeps_less_for_backward() -> None:
    full, half = (
        costs._measure([*SMALL, f"trainer.precision={precision}"], SHAPE)
        for precision in ("32-true", "bf16-mixed")
    )
    assert half.saved_mb < full.saved_mb
    assert half.gflop == full.gflop


def test_a_step_is_reported_beside_another_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdst.bench.step.measure", costs._measure)  # no process for each
    monkeypatch.setattr("sdst.bench.machine.GEMM_SIZE", 32)
    against = ["--against", *SMALL, "model.attention=standard"]
    assert main(["bench", "step", *SMALL, *SIZES, "--rounds", "2", "--out", str(tmp_path), *against]) == 0
    assert "saved mb" in capsys.readouterr().out
    report = json.loads((tmp_path / "step.json").read_text())
    assert report["benchmark"] == "step"
    assert {"command", "git", "versions", "machine", "threads"} <= set(report)
    first, second, both = report["rows"]
    assert second["configuration"].endswith("model.attention=standard")
    assert both["configuration"] == f"{first['configuration']} / {second['configuration']}"
    assert both["parameters"] == first["parameters"] / second["parameters"] > 1
    assert both["saved_mb"] == first["saved_mb"] / second["saved_mb"]
    assert set(first["seconds"]) == {"median", "lowest", "highest"}
    rate = first["gflop"] / first["seconds"]["median"]
    assert first["share_of_gemm"] == pytest.approx(rate / first["gemm_gflop_per_second"])


def test_costs_are_the_same_in_a_process_of_their_own() -> None:
    there, here = (function(SMALL, SHAPE) for function in (costs.measure, costs._measure))
    assert (there.gflop, there.saved_mb, there.parameters) == (here.gflop, here.saved_mb, here.parameters)
    assert there.peak_gb > 0


def test_inference_is_reported_for_one_query_and_a_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "infer", *SMALL, *SIZES, "--rounds", "1", "--out", str(tmp_path)]) == 0
    assert "decoding" in capsys.readouterr().out
    rows = json.loads((tmp_path / "infer.json").read_text())["rows"]
    assert [(row["queries"], row["part"]) for row in rows] == [
        (size, part) for size in (1, 3) for part in ("model", "decoding")
    ]
