"""Freed memory stays with the process, which the system would otherwise clear again page by page."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.corpus import Corpus
from sdst.features import allocator
from sdst.training import fit


def test_only_blocks_over_a_gibibyte_go_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda option, value: asked.append((option, value)))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: library)
    allocator.keep_freed_memory()
    assert sorted(asked) == [(-3, 2**30), (-1, 2**30)]  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h


def test_other_c_libraries_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    allocator.keep_freed_memory()
    allocator.return_freed_memory()


class ReachedError(Exception):
    pass


def test_training_keeps_freed_memory(
    corpus: Corpus, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def reached() -> None:
        raise ReachedError

    monkeypatch.setattr(fit, "keep_freed_memory", reached)
    with pytest.raises(ReachedError):
        train(tmp_path / "run")
