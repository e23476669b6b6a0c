"""Shared fixtures: a tiny corpus, training on it, a finished run, a demo and a run on videos."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.once import once
from sdst.cli import NEW_OBJECTS, main

settings.register_profile("no_deadline", deadline=None)  # a slow machine must not fail a test
settings.load_profile("no_deadline")
torch.set_num_threads(1)  # more threads slow down operations on tiny tensors
gc.set_threshold(20 * NEW_OBJECTS)  # a tenth less CPU time for some hundred MB of memory


def pytest_collection_finish() -> None:
    """Let Python look for unused cycles among the objects of tests alone: libraries and tests stay."""
    gc.freeze()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Corpus in QVHighlights format: 10 training, 5 validation, 4 test queries. Read only."""
    rows = {split: make_rows(split, count) for split, count in (("train", 10), ("val", 5), ("test", 4))}
    return make_corpus(tmp_path_factory.mktemp("corpus"), rows)


@pytest.fixture
def train(corpus: Corpus) -> Callable[..., Path]:
    """Function that trains on the corpus and returns the run folder, whose parent is ``paths.runs``."""

    def run(run_dir: Path, *overrides: str, status: int = 0) -> Path:
        arguments = [*corpus.overrides, f"paths.runs={run_dir.parent}", f"run_dir={run_dir}", *overrides]
        assert main(["train", *arguments]) == status
        return run_dir

    return run


@pytest.fixture(scope="session")
def finished(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run on the corpus. Read only."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", *corpus.overrides, f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a small ``sdst demo``. Read only."""
    for library in ("av", "transformers", "matplotlib"):
        pytest.importorskip(library)
    from helpers.small_demo import make_demo  # needs the libraries checked above

    return once(tmp_path_factory, "demo", make_demo)


@pytest.fixture(scope="session")
def video_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A ``VideoRun``: a model trained on features from videos. Read only."""
    pytest.importorskip("av")
    pytest.importorskip("transformers")
    from helpers.video_run import make_video_run  # needs the libraries checked above

    return make_video_run(tmp_path_factory.mktemp("video_run"))
