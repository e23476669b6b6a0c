"""Locks between processes, held on files: the kernel releases a lock when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import weakref
from typing import IO, Any

_locked: weakref.WeakSet[IO[Any]] = weakref.WeakSet()
"""Files whose lock this process holds or has held."""


def lock(file: IO[Any], *, wait: bool = False, shared: bool = False) -> bool:
    """Take the lock of an open file, until it is closed or the process ends.

    A forked process does not share the lock, so one that outlives its parent cannot keep it.

    Args:
        file: A file opened for writing; its content does not matter.
        wait: Wait while another process holds the lock, instead of returning at once.
        shared: Take a lock that any number of processes may hold while none has the exclusive one. It replaces an
            exclusive lock of this process, and the other way round; in between, this process has none.

    Returns:
        Whether this process now holds the lock.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    _locked.add(file)
    return True


def _leave_locks() -> None:
    """Let go of the files that a fork has copied: the kernel keeps a lock while any process has its file open."""
    for file in list(_locked):
        if not file.closed:
            # Replaced, not closed: the number would be given to another file, which the object would close later.
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, file.fileno(), inheritable=False)
            os.close(null)
    _locked.clear()


os.register_at_fork(after_in_child=_leave_locks)
