"""Which GPU a job takes where several jobs run on one machine: one that no other has, for as long as it runs."""

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
    """Hold a GPU's index; one that is shared where all are taken, None where there are fewer than two.

    It is held by a lock that ends with the process, in a file of this user and machine.
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
