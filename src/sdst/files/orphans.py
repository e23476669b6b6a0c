"""Child processes that end with their parent, however it ends, and ignore Ctrl-C; the one-line error if one dies."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from contextlib import contextmanager
from functools import cache
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    # A child of multiprocessing has a pipe that closes when its parent ends. A child of joblib only knows its parent's
    # number; if that parent has already died, the number of the present one differs from it.
    known = parent_process()
    if known is not None and known.sentinel is not None:
        connection.wait([known.sentinel])
    else:
        parent = os.getppid() if known is None else known.pid
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
    os._exit(1)


@contextmanager
def explain_dead_worker(option: str, next_step: str) -> Iterator[None]:
    """Explain in one line that a worker process of PyTorch's DataLoader has died.

    Args:
        option: Option that sets the number of worker processes.
        next_step: How to go on.

    Raises:
        UserError: A worker process has died, for example because the system ended it when memory ran out.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
        reason = " ".join(str(error).split())
        # PyTorch has no type of its own for it, and notices it too late if the worker dies while it sends a tensor.
        if not (reason.startswith("DataLoader worker (pid") or _is_lost_tensor(error)):
            raise
        raise UserError(
            f"a worker process has died, perhaps because memory ran out ({reason.rstrip('.')}); "
            f"{next_step}, with a smaller {option} if it happens again"
        ) from error


def _is_lost_tensor(error: Exception) -> bool:
    """Whether the error arose because the sender of a tensor was gone when this process received it."""
    frames = traceback.walk_tb(error.__traceback__)
    return not isinstance(error, RuntimeError) and any(
        frame.f_globals.get("__name__") == "torch.multiprocessing.reductions" for frame, _ in frames
    )
