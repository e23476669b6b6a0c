"""A run stops at values that are not finite and at changed features; spikes and leaks are logged."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import pytest
import torch
from torch import nn

from helpers.corpus import Corpus, make_corpus, make_rows
from sdst.cli import main
from sdst.config.schema import Levels
from sdst.data.datamodule import GroundingDataModule
from sdst.training.callbacks.loss_watch import MAX_OVERFLOWS, SPIKE, SPIKE_STEPS, LossWatch
from sdst.training.module import GroundingModule
from sdst.training.run_folder import LAST, RunFolder

Train = Callable[..., Path]


def spoil_loss(module: GroundingModule, loss: torch.Tensor) -> torch.Tensor:
    return loss * torch.inf


def spoil_gradient(module: GroundingModule, loss: torch.Tensor) -> torch.Tensor:
    return loss + (module.model.queries * 0).abs().sqrt().sum()  # 0, whose gradient is 0 * inf


def spoil_output(module: GroundingModule, loss: torch.Tensor) -> torch.Tensor:
    raise FloatingPointError("as the matching does")


SPOILT = {
    "loss": (spoil_loss, "the loss is inf"),
    "gradient": (spoil_gradient, "the gradient of model.queries is not finite"),
    "output": (spoil_output, "as the matching does"),
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", SPOILT)
def test_a_value_that_is_not_finite_stops_the_run_and_its_queries_are_written_down(
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    accumulate: int,
) -> None:
    step, spoil, reason, batches = GroundingModule.training_step, *SPOILT[kind], []

    def spoilt(self: GroundingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        batches.append([record.qid for record in batch.records])
        return spoil(self, loss) if len(batches) == 5 else loss  # the second of the second epoch's three

    monkeypatch.setattr(GroundingModule, "training_step", spoilt)
    run_dir = train(tmp_path / "run", f"trainer.accumulate_grad_batches={accumulate}", status=2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert "diverged in epoch 2" in error
    assert reason in error
    found = json.loads(RunFolder(run_dir).nonfinite_path.read_text())
    assert found["qids"] == [qid for batch in batches[5 - accumulate : 5] for qid in batch]
    assert (found["epoch"], found["reason"]) == (2, reason)
    weights = torch.load(run_dir / LAST, weights_only=True)["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())
    assert not (run_dir / "metrics.json").exists()


def test_a_gradient_scaler_may_skip_some_steps_in_a_row_but_not_all() -> None:
    watch, module, optimizer = LossWatch(RunFolder(Path())), nn.Linear(1, 1), None
    trainer: Any = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=object()), callback_metrics={"train/loss": torch.tensor(1.0)}
    )
    for _ in range(2):
        module.weight.grad = torch.full((1, 1), torch.inf)
        for _ in range(MAX_OVERFLOWS):
            watch.on_before_optimizer_step(trainer, module, optimizer)
        module.weight.grad = torch.ones(1, 1)
        watch.on_before_optimizer_step(trainer, module, optimizer)
    module.weight.grad = torch.full((1, 1), torch.nan)
    for _ in range(MAX_OVERFLOWS):
        watch.on_before_optimizer_step(trainer, module, optimizer)
    with pytest.raises(FloatingPointError, match="weight"):
        watch.on_before_optimizer_step(trainer, module, optimizer)


def test_a_loss_far_above_the_median_of_earlier_steps_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watch, trainer = (
        LossWatch(RunFolder(Path())),
        SimpleNamespace(is_global_zero=True, current_epoch=4, global_step=77),
    )

    def logged(loss: float) -> list[str]:
        caplog.clear()
        trainer.callback_metrics = {"train/loss": torch.tensor(loss)}
        watch.on_train_batch_end(trainer, None, None, None, 0)
        return [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.WARNING, "sdst"):
        assert not logged(1000.0)  # nothing to compare with yet
        assert not any(logged(2.0) for _ in range(SPIKE_STEPS - 1))
        assert not logged(2.0 * SPIKE)
        (message,) = logged(2.0 * SPIKE + 0.1)
    assert message.startswith("epoch 5, step 77: the loss 6.1 is 3.")


# --- features and splits ---


def interrupt(finished: Path, tmp_path: Path) -> Path:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "metrics.json").unlink()
    return run_dir


def test_features_that_changed_since_the_checkpoint_are_refused(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, features = interrupt(finished, tmp_path), tmp_path / "moved.h5"
    shutil.copy(corpus.features, features)
    with h5py.File(features, "r+") as file:
        for tokens in file["text"].values():  # a fingerprint reads some of them
            tokens[0, 0, 0] += 1
    before = (run_dir / LAST).read_bytes()
    assert main(["train", f"resume={run_dir}", f"data.features={features}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(features) in line
    assert "fingerprint" in line
    assert (run_dir / LAST).read_bytes() == before
    shutil.copy(corpus.features, features)
    assert main(["train", f"resume={run_dir}", f"data.features={features}"]) == 0


def test_a_checkpoint_without_a_fingerprint_resumes(finished: Path, tmp_path: Path) -> None:
    run_dir = interrupt(finished, tmp_path)
    stored = torch.load(run_dir / LAST, weights_only=True)
    del stored["sdst"]["recipe"]["fingerprint"]
    torch.save(stored, run_dir / LAST)
    assert main(["train", f"resume={run_dir}"]) == 0


def test_splits_that_share_videos_with_training_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {split: make_rows(split, 6) for split in ("train", "val", "test")}
    for row in rows["test"][:2]:
        row |= {key: rows["train"][0][key] for key in ("vid", "duration")}
        row |= {"relevant_windows": [[0, 2]], "relevant_clip_ids": [0], "saliency_scores": [[2, 3, 4]]}
    corpus = make_corpus(tmp_path, rows)
    paths = {split: str(path) for split, path in corpus.paths.items()}
    data = GroundingDataModule("qvhighlights", paths, str(corpus.features), levels=Levels(count=2))
    with caplog.at_level(logging.WARNING, "sdst"):
        data.warn_about_leaks()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("test shares 1 videos with train (train0)")
