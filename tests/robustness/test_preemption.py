"""SIGTERM and Ctrl-C save a run and stop it; the resumed run gives the result of an uninterrupted one."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.same_result import assert_same_result, load
from sdst.cli import main
from sdst.training.module import GroundingModule
from sdst.training.run_folder import LAST

STEPS = ["data.batch_size=2", "trainer.max_epochs=2", "decode.round_to=null"]
"""Overrides with which an epoch has 5 steps."""


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main(["train", *corpus.overrides, *STEPS, f"run_dir={run_dir}"]) == 0
    return run_dir


def terminate_at(
    monkeypatch: pytest.MonkeyPatch, method: str, call: int, signals: Sequence[int] = (signal.SIGTERM,)
) -> None:
    """Send signals to this process at the nth call of a method of the module."""
    original, calls = getattr(GroundingModule, method), []

    def noted(self: GroundingModule, *arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            for number in signals:
                os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(GroundingModule, method, noted)


@pytest.mark.parametrize(
    ("number", "method", "call", "overrides", "epoch", "step"),
    [
        (signal.SIGTERM, "training_step", 1, [], 0, 1),
        (signal.SIGTERM, "training_step", 8, ["data.num_workers=1"], 1, 8),
        (signal.SIGTERM, "training_step", 5, [], 0, 5),  # last step of its epoch: validation follows
        (signal.SIGTERM, "training_step", 10, [], 1, 10),  # last step of the run
        (signal.SIGTERM, "validation_step", 2, ["data.num_workers=1"], 0, 5),
        (signal.SIGTERM, "validation_step", 8, [], 1, 10),  # evaluation of the best checkpoint
        (signal.SIGINT, "training_step", 8, ["data.num_workers=1"], 1, 8),
        (signal.SIGINT, "validation_step", 2, ["data.num_workers=1"], 0, 5),
    ],
)
def test_run_stopped_by_a_signal_resumes_to_the_uninterrupted_result(
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    uninterrupted: Path,
    number: signal.Signals,
    method: str,
    call: int,
    overrides: list[str],
    epoch: int,
    step: int,
) -> None:
    run_dir = tmp_path / "run"
    arguments = [*corpus.overrides, *STEPS, *overrides, f"run_dir={run_dir}"]
    handler = signal.getsignal(number)
    terminate_at(monkeypatch, method, call, [number])
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    monkeypatch.undo()
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == handler
    assert caplog.messages[-1] == f"stopped by {number.name}; continue with: sdst train resume={run_dir}"
    assert (load(run_dir / LAST)["epoch"], load(run_dir / LAST)["global_step"]) == (epoch, step)
    assert main(["train", f"resume={run_dir}"]) == 0
    assert_same_result(run_dir, uninterrupted)


def test_a_second_ctrl_c_stops_at_once(
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    terminate_at(monkeypatch, "training_step", 2, [signal.SIGINT, signal.SIGINT])
    with pytest.raises(SystemExit) as ended:
        main(["train", *corpus.overrides, *STEPS, f"run_dir={tmp_path / 'run'}"])
    assert ended.value.code == 130
    assert caplog.messages[-2:] == [
        "stopping after this step; Ctrl-C again stops at once, without saving",
        f"stopped by SIGINT; continue with: sdst train resume={tmp_path / 'run'}",
    ]
    assert not (tmp_path / "run" / LAST).exists()


def test_ctrl_c_before_the_first_step_ends_in_one_line(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # A process that was started in the background ignores Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_at(monkeypatch, "configure_optimizers", 1, [signal.SIGINT])
    try:
        assert main(["train", *corpus.overrides, *STEPS, f"run_dir={tmp_path / 'run'}"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err.endswith(
        "sdst train: interrupted; a run that has begun continues with: sdst train resume=latest\n"
    )


@pytest.mark.parametrize("change", ["rows in another order", "other moments in val"])
def test_changed_annotations_are_refused_on_resuming(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, change: str
) -> None:
    corpus = make_corpus(tmp_path / "data", {"train": make_rows("train", 10), "val": make_rows("val", 3)})
    terminate_at(monkeypatch, "training_step", 7)
    with pytest.raises(SystemExit):
        main(["train", *corpus.overrides, *STEPS, f"run_dir={tmp_path / 'run'}"])
    monkeypatch.undo()
    split = "train" if change.startswith("rows") else "val"
    lines = corpus.paths[split].read_text().splitlines()
    if split == "train":
        lines.reverse()
    else:
        row = json.loads(lines[0])
        lines[0] = json.dumps(row | {"relevant_windows": [[0, row["duration"]]]})
    corpus.paths[split].write_text("\n".join(lines) + "\n")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    assert main(["train", f"resume={tmp_path / 'run'}"]) == 2
    assert f"the {split} annotations have changed since the run was begun" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_a_run_stopped_within_a_repeated_epoch_resumes_to_the_same_result(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = [*corpus.overrides, *STEPS, "data.batch_size=4", "data.repeat=2"]  # 5 steps of 20 queries
    assert main(["train", *arguments, f"run_dir={tmp_path / 'whole'}"]) == 0
    terminate_at(monkeypatch, "training_step", 9)  # a batch of both passes is behind it
    with pytest.raises(SystemExit):
        main(["train", *arguments, f"run_dir={tmp_path / 'run'}"])
    monkeypatch.undo()
    stopped = load(tmp_path / "run" / LAST)
    assert (stopped["epoch"], stopped["global_step"]) == (1, 9)
    assert main(["train", f"resume={tmp_path / 'run'}"]) == 0
    assert load(tmp_path / "run" / LAST)["global_step"] == 10
    assert_same_result(tmp_path / "run", tmp_path / "whole")


def test_sigterm_does_not_lose_accumulated_gradients(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = [*corpus.overrides, *STEPS, "trainer.accumulate_grad_batches=2"]
    assert main(["train", *arguments, f"run_dir={tmp_path / 'whole'}"]) == 0
    terminate_at(monkeypatch, "training_step", 1)
    with pytest.raises(SystemExit):
        main(["train", *arguments, f"run_dir={tmp_path / 'run'}"])
    monkeypatch.undo()
    assert main(["train", f"resume={tmp_path / 'run'}"]) == 0
    assert_same_result(tmp_path / "run", tmp_path / "whole")


def test_resume_auto_starts_continues_and_keeps_a_finished_run(
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    uninterrupted: Path,
) -> None:
    run_dir = tmp_path / "run"
    command = ["train", *corpus.overrides, *STEPS, "resume=auto", f"run_dir={run_dir}"]
    monkeypatch.setattr(GroundingModule, "on_train_batch_start", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(command)
    monkeypatch.undo()
    assert not (run_dir / LAST).exists()  # so the next call starts over
    terminate_at(monkeypatch, "training_step", 7)
    with pytest.raises(SystemExit):
        main(command)
    monkeypatch.undo()
    assert main(command) == 0
    assert_same_result(run_dir, uninterrupted)
    written = (run_dir / "metrics.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (run_dir / "metrics.json").stat().st_mtime_ns == written
    capsys.readouterr()
    (run_dir / "metrics.json").unlink()
    assert main([*command, "seed=3"]) == 2
    assert "another seed" in capsys.readouterr().err
    assert main(command[:-1]) == 2
    assert "resume=auto: needs run_dir=" in capsys.readouterr().err


def test_run_inside_a_slurm_job_handles_sigterm_itself(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uninterrupted: Path
) -> None:
    for name, value in {
        "JOB_ID": "7",
        "JOB_NAME": "sdst",
        "NTASKS": "2",
        "PROCID": "0",
        "LOCALID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run_dir = tmp_path / "run"
    terminate_at(monkeypatch, "training_step", 7)
    with pytest.raises(SystemExit):
        main(["train", *corpus.overrides, *STEPS, f"run_dir={run_dir}"])
    monkeypatch.undo()
    assert main(["train", f"resume={run_dir}"]) == 0
    assert_same_result(run_dir, uninterrupted)


def test_temporary_files_of_a_killed_process_are_removed(corpus: Corpus, tmp_path: Path) -> None:
    left = [tmp_path / "run" / ".metrics.json.123.tmp", tmp_path / "run" / "checkpoints" / ".last.ckpt.tmp"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half of a")
    assert main(["train", *corpus.overrides, f"run_dir={tmp_path / 'run'}"]) == 0
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.parametrize(("limit", "marked"), [("1", 1), ("0.5", 0.5), ("1.0", None)])
def test_metrics_of_a_part_of_the_validation_split_are_marked(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: str, marked: float | None
) -> None:
    arguments = [*corpus.overrides, "data.batch_size=2", f"trainer.limit_val_batches={limit}"]
    with caplog.at_level("INFO"):
        assert main(["train", *arguments, f"run_dir={tmp_path / 'run'}"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["selected"].get("limit_val_batches") == marked
    assert ("chosen on" in caplog.text) == (marked is not None)
