"""How many threads PyTorch uses on the CPU.

Threads that share a core wait for each other in a loop after every operation: on two cores, two threads beside another
training and two decoding processes took twelve times as long as one.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def usable_cores() -> int:
    """Number of cores that this process may use."""
    # Only Linux says which cores; elsewhere all of them count.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Limit PyTorch to ``count`` threads within the block, to one if ``count`` is less."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, count)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
