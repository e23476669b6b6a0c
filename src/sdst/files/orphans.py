"""Child processes that end with their parent, however it ends, and leave Ctrl-C to it."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import cache
from multiprocessing import connection, parent_process

POLL_SECONDS = 0.5


def begin_worker(*_: object) -> None:
    """End with the parent (see below), and ignore Ctrl-C, which a terminal sends to all processes: the parent decides.

    Any arguments are accepted and ignored, so that it can be a ``worker_init_fn``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """End this child process as soon as its parent has died; call it when the child starts.

    Otherwise a child whose parent was killed waits for work for ever, or for as long as its own work takes, and keeps
    its memory. Nothing is cleaned up, because files are written atomically.
    """
    _watch(os.getpid())


@cache
def _watch(_pid: int) -> None:
    """Start the thread that waits, once in each process."""
    threading.Thread(target=_wait, args=(os.getppid(),), daemon=True).start()


def _wait(parent: int) -> None:
    # A child of multiprocessing has a pipe that its parent's end closes; one of joblib says that it has a parent only.
    known = parent_process()
    if known is not None and known.sentinel is not None:
        connection.wait([known.sentinel])
    else:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
    os._exit(1)
