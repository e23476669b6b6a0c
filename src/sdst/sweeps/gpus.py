"""GPUs for jobs that run at once on one machine: each job claims a place on one of them."""

from __future__ import annotations

import getpass
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.files.locks import lock

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def claim_gpu(jobs_per_gpu: int = 1) -> Iterator[int | None]:
    """Claim a place on the GPU with the most free places, and yield the GPU's index.

    If all places are taken, it yields some GPU without a claim; with fewer than two GPUs, None. A claim is a lock on
    a file of this user and machine, and ends with the process.

    Args:
        jobs_per_gpu: Places of each GPU; jobs that run at once should agree on it.
    """
    import torch  # imported here because it takes seconds, and reports read jobs without training them

    count = torch.cuda.device_count()
    if count < 2:
        yield None
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else map(str, range(count))
    with ExitStack() as claim:
        # One job at a time looks for free places, because looking takes them for a moment.
        with _lock_file("").open("a") as turn:
            lock(turn, wait=True)
            free = [
                [path for place in range(jobs_per_gpu) if _is_free(path := _lock_file(f"-{name}-{place}"))]
                for name in names
            ]
            gpu = max(range(count), key=lambda index: len(free[index]))
            if free[gpu]:
                lock(claim.enter_context(free[gpu][0].open("a")))
        yield gpu if free[gpu] else os.getpid() % count


def _lock_file(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"sdst-{getpass.getuser()}-gpus{name}.lock"


def _is_free(path: Path) -> bool:
    with path.open("a") as file:
        return lock(file)
