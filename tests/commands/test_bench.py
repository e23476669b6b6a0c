"""Benchmarks: rounds, counts and reports; no test depends on actual speed."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers.corpus import TINY, Corpus
from sdst.bench import costs, machine, step
from sdst.bench.layouts import _write
from sdst.bench.process import command
from sdst.bench.rounds import Spread, interleave, ratio, spread
from sdst.bench.startup import UNTIL_FIRST_STEP
from sdst.bench.workload import Shape, Workload, random_batch
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.predictions import write_predictions
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.metrics.trivial import whole_video

SMALL = [override for override in TINY if override.startswith("model.")]
SHAPE = Shape(batch=3, clips=6, tokens=4, queries=4, levels=2, video_dim=12, text_dim=10)
SIZES = [item for name, size in asdict(SHAPE).items() for item in (f"--{name.replace('_', '-')}", str(size))]


class Machine:
    """A simulated clock, and jobs that take a known time on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.slowness = 1.0

    def clock(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> None:
        self.done.append(name)
        self.now += seconds * self.slowness


def test_rounds_alternate_the_order_of_jobs_after_a_warm_up() -> None:
    machine = Machine()

    def slow_first_run() -> None:  # as if it compiled something
        machine.work("a", 100 if machine.done.count("a") == 0 else 2)

    seconds = interleave({"a": slow_first_run, "b": partial(machine.work, "b", 5)}, 3, machine.clock)
    assert seconds == {"a": [2, 2, 2], "b": [5, 5, 5]}
    assert "".join(machine.done) == "ab" + "ab" + "ba" + "ab"


def test_load_on_a_round_changes_times_but_not_ratios() -> None:
    machine = Machine()

    def slow_from_the_second_round_on() -> None:
        machine.slowness = 1.0 if machine.done.count("a") < 2 else 10.0
        machine.work("a", 3)

    seconds = interleave({"a": slow_from_the_second_round_on}, 1, machine.clock)
    assert seconds == {"a": [3]}
    assert ratio([2, 20, 2], [4, 40, 8]) == Spread(median=0.5, lowest=0.25, highest=0.5)
    assert spread([5, 1, 2]) == Spread(median=2, lowest=1, highest=5)
    assert str(spread([5, 1, 2])) == "2 (1 to 5)"


def test_operations_of_a_linear_layer_equal_those_of_its_three_products() -> None:
    x, linear = torch.randn(7, 5, requires_grad=True), nn.Linear(5, 3)
    assert costs.count_flops(lambda: linear(x)) == 2 * 7 * 5 * 3
    assert costs.count_flops(lambda: linear(x).sum().backward()) == 3 * 2 * 7 * 5 * 3


def test_operations_of_attention_are_counted_on_the_cpu() -> None:
    q, k, v = (torch.randn(2, 4, length, 8, requires_grad=True) for length in (5, 6, 6))
    forward = 2 * (2 * 2 * 4 * 5 * 6 * 8)
    assert costs.count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == forward


def test_saved_bytes_count_each_tensor_that_backward_needs_once() -> None:
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    given = (x, weight)
    assert costs.saved_bytes(lambda: (x * weight).sum(), given) == 0
    assert costs.saved_bytes(lambda: x.exp().sum(), given) == 4 * 8 * 4
    assert costs.saved_bytes(lambda: x.exp().sum(), ()) == 4 * 8 * 4
    assert costs.saved_bytes(lambda: (x * weight).sum(), ()) == (4 * 8 + 8) * 4

    def product_of_two_views() -> torch.Tensor:
        y = x.exp()
        return (y.flatten() * y.view(-1)).sum()

    assert costs.saved_bytes(product_of_two_views, given) == 4 * 8 * 4


def test_tensors_freed_before_backward_do_not_count_as_saved() -> None:
    x = torch.randn(1000, requires_grad=True)

    def forward() -> torch.Tensor:
        for _ in range(3):
            x.exp().sin()
        return x.exp().sum()

    assert costs.saved_bytes(forward, [x]) == 4000


def test_random_batch_is_padded_and_labelled_like_a_real_one() -> None:
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


def test_step_changes_parameters_and_inference_does_not() -> None:
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


def test_mixed_precision_saves_fewer_bytes_for_backward() -> None:
    full, half = (
        costs._measure([*SMALL, f"trainer.precision={precision}"], SHAPE)
        for precision in ("32-true", "bf16-mixed")
    )
    assert half.saved_mb < full.saved_mb
    assert half.gflop == full.gflop


def test_step_benchmark_compares_two_configurations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "measure", costs._measure)  # without separate processes
    monkeypatch.setattr(machine, "GEMM_SIZE", 32)
    against = ["--against", *SMALL, "attention=standard"]
    assert main(["bench", "step", *SMALL, *SIZES, "--rounds", "2", "--out", str(tmp_path), *against]) == 0
    assert "saved mb" in capsys.readouterr().out
    report = json.loads((tmp_path / "step.json").read_text())
    assert report["benchmark"] == "step"
    assert {"command", "git", "versions", "machine", "threads"} <= set(report)
    first, second, both = report["rows"]
    assert second["configuration"].endswith("attention=standard")
    assert both["configuration"] == f"{first['configuration']} / {second['configuration']}"
    assert both["parameters"] == first["parameters"] / second["parameters"] > 1
    assert both["saved_mb"] == first["saved_mb"] / second["saved_mb"]
    assert set(first["seconds"]) == {"median", "lowest", "highest"}
    rate = first["gflop"] / first["seconds"]["median"]
    assert first["share_of_gemm"] == pytest.approx(rate / first["gemm_gflop_per_second"])


@pytest.mark.processes
def test_costs_are_the_same_in_a_separate_process() -> None:
    there, here = (function(SMALL, SHAPE) for function in (costs.measure, costs._measure))
    assert (there.gflop, there.saved_mb, there.parameters) == (here.gflop, here.saved_mb, here.parameters)
    assert there.peak_gb > 0


def run(tmp_path: Path, *arguments: str, rounds: int = 1) -> list[dict[str, Any]]:
    """Run a benchmark and return the rows of its JSON file."""
    out = tmp_path / "out"
    assert main(["bench", *arguments, "--rounds", str(rounds), "--out", str(out)]) == 0
    rows: list[dict[str, Any]] = json.loads((out / f"{arguments[0]}.json").read_text())["rows"]
    return rows


def test_scale_benchmark_reports_and_draws_costs_per_clip(tmp_path: Path) -> None:
    rows = run(tmp_path, "scale", *SMALL, *SIZES, "--over", "clips=6,12", "--over", "batch=1,2")
    assert [(row["grows"], row["size"]) for row in rows] == [
        *(("clips", 6), ("clips", 12), ("batch", 1), ("batch", 2))
    ]
    short, long, *_ = rows
    assert short["time_per_clip"] == short["bytes_per_clip"] == short["operations_per_clip"] == 1
    assert long["operations_per_clip"] == pytest.approx(long["gflop"] / short["gflop"] / 2)
    assert long["bytes_per_clip"] == pytest.approx(long["saved_mb"] / short["saved_mb"] / 2)
    assert (tmp_path / "out/scale.png").stat().st_size > 1000


def test_unknown_axis_is_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scale", "--over", "frames=1,2"]) == 2
    error = capsys.readouterr().err
    assert "expected AXIS=N,N,... as in clips=75,150" in error
    assert "got 'frames=1,2'" in error


def test_load_benchmark_times_loading_alone_and_during_training(tmp_path: Path, corpus: Corpus) -> None:
    rows = run(tmp_path, "load", *corpus.overrides, "--workers", "0", "--batches", "2")
    assert [row["workers"] for row in rows] == [0]
    assert rows[0]["queries_per_second"] == pytest.approx(4 / rows[0]["seconds_per_batch"]["median"])
    assert 0 < rows[0]["share_waiting"]["median"] < 1


def test_layouts_benchmark_has_all_processes_layers_and_cache_states(tmp_path: Path) -> None:
    rows = run(tmp_path, "layouts", "--videos", "3", "--layers", "2", "--workers", "0", "1")
    assert [(row["processes"], row["layers"], row["page_cache"]) for row in rows] == [
        (number, layers, cache) for number in (0, 1) for layers in (2, 1) for cache in ("warm", "cold")
    ]


def test_every_layout_has_the_same_videos(tmp_path: Path) -> None:
    paths = _write(tmp_path, num_videos=2, num_layers=3)
    plain = FeatureStore(paths.pop("in one piece")).video("1")
    np.testing.assert_array_equal(
        np.load(paths.pop("one .npy per video") / "1.npy"), plain.transpose(1, 0, 2)
    )
    for path in paths.values():
        np.testing.assert_array_equal(FeatureStore(path).video("1"), plain)
        with h5py.File(path) as file:
            assert file["video/adaptive/1"].chunks is not None


def test_evaluate_benchmark_times_the_command_and_its_parts(tmp_path: Path, corpus: Corpus) -> None:
    records = read_annotations(corpus.paths["val"]).records
    write_predictions(tmp_path / "p.jsonl", whole_video(records))
    rows = run(tmp_path, "evaluate", str(tmp_path / "p.jsonl"), str(corpus.paths["val"]))
    assert [row["queries"] for row in rows] == [5] * 4
    assert rows[0]["part"].startswith("sdst evaluate")


def test_failing_command_raises_instead_of_being_timed(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"sdst evaluate nothing\.jsonl .*exit status 2: sdst: error: nothing\.jsonl"
    ):
        command("evaluate", "nothing.jsonl", "nothing.jsonl")()


@pytest.mark.processes
def test_startup_program_exits_after_the_first_training_step(tmp_path: Path, corpus: Corpus) -> None:
    run_dir = tmp_path / "run"
    command("train", *corpus.overrides, f"run_dir={run_dir}", program=UNTIL_FIRST_STEP)()
    assert (run_dir / "config.yaml").is_file()
    assert not list(run_dir.rglob("*.ckpt"))  # no epoch has ended


def test_extract_benchmark_times_decoding_and_backbone(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from helpers.video_files import write_grey_video  # needs av

    video = write_grey_video(tmp_path / "v.mov", [i / 2 for i in range(12)])
    rows = run(tmp_path, "extract", str(video), "--batch", "2")
    assert [row["part"] for row in rows] == ["decoding", "backbone"]
    assert rows[0]["clips"] == 3  # 2 s each
    assert rows[1]["gflop_per_clip"] > 0


def test_infer_benchmark_has_one_query_and_a_batch(tmp_path: Path) -> None:
    rows = run(tmp_path, "infer", *SMALL, *SIZES)
    assert [(row["queries"], row["part"]) for row in rows] == [
        *((1, "model"), (1, "decoding")),
        *((3, "model"), (3, "decoding"), (3, "model, one video")),
    ]


def test_operations_of_attention_equal_those_of_its_matrix_products() -> None:
    def forward_and_backward() -> None:
        q, k, v = (torch.randn(2, 4, length, 8, requires_grad=True) for length in (5, 6, 6))
        F.scaled_dot_product_attention(q, k, v).sum().backward()

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward_and_backward()
    assert costs.count_flops(forward_and_backward) == counter.get_total_flops()


def test_profile_assigns_every_operation_of_a_step_to_a_part(tmp_path: Path) -> None:
    *parts, everything = run(tmp_path, "profile", *SMALL, *SIZES, rounds=2)
    assert everything["gflop"] == pytest.approx(sum(row["gflop"] for row in parts))
    assert everything["gflop"] == pytest.approx(costs._measure([*SMALL], SHAPE).gflop)
    assert all(row["seconds"]["lowest"] > 0 for row in parts)
    arithmetic = {row["part"] for row in parts if row["gflop"] > 0}
    assert arithmetic == {row["part"] for row in parts if row["bound_by"] == "arithmetic"}
