"""``data.cache``: a whole training gives the same bits wherever the features are held."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.same_result import assert_same_result
from sdst.cli import main
from sdst.data import shared
from sdst.errors import Stopped
from sdst.training.module import GroundingModule

Train = Callable[..., Path]


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test in place of /dev/shm."""
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(shared, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(shared, "_latest", None)
    return tmp_path / "shm"


@pytest.mark.slow
def test_a_run_is_the_same_wherever_its_features_are_held(
    train: Train, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for cache in ("memory", "device"):
        with caplog.at_level(logging.INFO, "sdst"):
            run = train(tmp_path / cache, f"data.cache={cache}")
        assert_same_result(run, finished)
        assert f"data.cache={cache}: reading 0.00 GB of features into" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["memory", "device"])
def test_a_run_stopped_within_an_epoch_continues_with_features_held_elsewhere(
    train: Train, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    steps, step = 0, GroundingModule.training_step

    def stop_in_second_epoch(self: GroundingModule, *arguments: object) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 5:  # the second of three
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(GroundingModule, "training_step", stop_in_second_epoch)
        with pytest.raises(Stopped):
            train(tmp_path / "run", f"data.cache={cache}")
    assert (
        main(["train", f"resume={tmp_path / 'run'}", "data.cache=none"][: 3 if cache == "device" else 2]) == 0
    )
    assert_same_result(tmp_path / "run", finished)
