"""The same seed and configuration give the same run on the same machine, however it is loaded."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from helpers.corpus import Corpus
from helpers.same_result import assert_same_result
from sdst.cli import main

Train = Callable[..., Path]


@pytest.fixture(autouse=True)
def _free() -> Iterator[None]:
    """What ``trainer.deterministic`` sets holds for the process."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sdst", "r2_tuning"])
def test_deterministic_algorithms_repeat_themselves_with_any_number_of_workers(
    corpus: Corpus, tmp_path: Path, model: str
) -> None:
    sizes = [item for item in corpus.overrides if model == "sdst" or not item.startswith("model.")]
    overrides = [*sizes, f"model={model}", "model.dim=16", "model.heads=2", "trainer.deterministic=true"]
    for workers in (0, 2):
        arguments = [*overrides, f"data.num_workers={workers}", f"run_dir={tmp_path / str(workers)}"]
        assert main(["train", *arguments]) == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert_same_result(tmp_path / str(workers), tmp_path / "0")
