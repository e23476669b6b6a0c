"""GPUs for jobs that run at once on one machine: each job claims one that no other job uses."""

from __future__ import annotations

import getpass
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdst.files.locks import lock

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def claim_gpu() -> Iterator[int | None]:
    """Claim a GPU and yield its index; a shared one if all are taken, None if there are fewer than two.

    The claim is a lock on a file of this user and machine, and ends with the process.
    """
    count = torch.cuda.device_count()
    if count < 2:
        yield None
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-")
    with ExitStack() as stack:
        for index in range(count):
            path = Path(tempfile.gettempdir()) / f"sdst-{getpass.getuser()}-gpus-{visible}-{index}.lock"
            file = stack.enter_context(path.open("a"))
            if lock(file):
                yield index
                return
        yield os.getpid() % count
