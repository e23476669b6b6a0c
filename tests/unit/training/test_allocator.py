"""Freed memory stays with the process, which the system would otherwise clear again page by page."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.corpus import Corpus

PROGRAM = """
import resource, sys
import torch
from sdst.training.allocator import keep_freed_memory
from sdst.cli import main

if sys.argv[1] == "keep":
    keep_freed_memory()
elif sys.argv[1] == "train":
    assert main(sys.argv[1:]) == 0
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.zeros(2**20, dtype=torch.uint8) for _ in range(64)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 64 * 2**20 // 4096


pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def faults(*arguments: str) -> int:
    """Pages that the second of two sets of tensors had to ask the system for."""
    program = [sys.executable, "-c", PROGRAM, *arguments]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


def test_tensors_take_the_pages_of_those_before_them() -> None:
    assert faults("keep") < PAGES / 4
    assert faults("leave") > PAGES * 3 / 4


def test_training_keeps_what_it_frees(corpus: Corpus, tmp_path: Path) -> None:
    overrides = [*corpus.overrides, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]
    assert faults("train", *overrides) < PAGES / 4
