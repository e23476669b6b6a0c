"""Freed memory stays with the process, which the system would otherwise clear again page by page."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from sdst.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.zeros(2**20, dtype=torch.uint8) for _ in range(64)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 64 * 2**20 // 4096


def faults(choice: str) -> int:
    """Pages that the second of two sets of tensors had to ask the system for."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, choice], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_tensors_take_the_pages_of_those_before_them() -> None:
    assert faults("keep") < PAGES / 4
    assert faults("leave") > PAGES * 3 / 4
