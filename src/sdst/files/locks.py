"""Locks between processes, held on files: the kernel releases a lock when its process ends, however it ends."""

from __future__ import annotations

import fcntl
from typing import IO, Any


def lock(file: IO[Any], *, wait: bool = False) -> bool:
    """Take the exclusive lock of an open file, until it is closed or the process ends.

    Args:
        file: A file opened for writing; its content does not matter.
        wait: Wait while another process holds the lock, instead of returning at once.

    Returns:
        Whether this process now holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
