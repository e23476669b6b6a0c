"""Functions in processes of their own: if one crashes or hangs, the others go on, and what it had found is kept.

The processes are forked from a server that has imported PyTorch and Lightning but never touched a GPU, because each
would otherwise spend seconds on imports. Where CUDA does not work in such a process, each starts anew.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdst.errors import UserError
from sdst.files.orphans import begin_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from sdst.bench.gpu.settings import Settings
    from sdst.bench.report import Row

METHODS = ("forkserver", "spawn")
"""Start methods, the preferred one first."""
PRELOADED = ["sdst.training.fit", "sdst.bench.costs", "sdst.sweeps.sweeper"]
"""Modules that the server imports; importing them must not touch a GPU."""
REASON_LENGTH = 300
"""Longest reason of a failure in characters; the log has all of it."""


class CannotRunError(Exception):
    """A part cannot run on this machine; the message says what it needs."""


@dataclass
class Outcome:
    """How a function ended.

    Attributes:
        result: ``ok``, ``failed`` or ``skipped``.
        reason: Reason of a failure or skip, in one line.
        rows: Rows that it yielded until then.
        seconds: Wall time.
    """

    result: str
    reason: str = ""
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def require(self) -> list[Row]:
        """The rows of a function that ended well.

        Raises:
            UserError: It did not; the message is its reason.
        """
        if self.result != "ok":
            raise UserError(self.reason)
        return self.rows


class Task:
    """A generator function that runs in a new process.

    Args:
        name: The function as MODULE:NAME; this process does not import it. Its rows are received one by one.
        arguments: Its arguments.
        settings: Threads and start method of the process.
        log: File in the folder of logs that gets its output and traceback; it may exist.
    """

    def __init__(self, name: str, *arguments: Any, settings: Settings, log: str) -> None:
        method = settings.method
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        self._started = time.monotonic()
        self._receiver, sender = context.Pipe(duplex=False)
        work = (sender, settings.logs / log, settings.threads, name, arguments)
        self._process = context.Process(target=_work, args=work)
        self._process.start()
        sender.close()

    def wait(self, seconds: float, each: Callable[[Row], object] = lambda row: None) -> Outcome:
        """Wait for the function's end, and end it after ``seconds`` since its start.

        Args:
            seconds: Time limit.
            each: Called with each row as it comes.
        """
        rows: list[Row] = []
        try:
            result, reason = self._receive(seconds, rows, each)
        finally:
            self._end()
        return Outcome(result, reason, rows, time.monotonic() - self._started)

    def _receive(self, seconds: float, rows: list[Row], each: Callable[[Row], object]) -> tuple[str, str]:
        while self._receiver.poll(max(0.0, self._started + seconds - time.monotonic())):
            try:
                kind, content = self._receiver.recv()
            except EOFError:
                self._process.join()
                return "failed", f"its process ended with exit code {self._process.exitcode}"
            if kind != "row":
                return kind, content
            rows.append(content)
            each(content)
        return "failed", f"not finished within its limit of {seconds:.0f} s"

    def _end(self) -> None:
        """End the process and those that it started, which are in its group or end with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # it may not have made its group yet
        self._process.join()
        self._receiver.close()


def _work(sender: Connection, log: Path, threads: int | None, name: str, arguments: tuple[Any, ...]) -> None:
    """Run the function, and send its rows and how it ended."""
    os.setsid()
    begin_worker()
    # Processes that the function starts are made as in any other process, not as this one was.
    multiprocessing.set_start_method(None, force=True)
    # Line by line, because a process that is killed writes no buffers.
    file = log.open("a", encoding="utf-8", buffering=1)
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    sys.stdout = sys.stderr = file
    module, _, function = name.partition(":")
    try:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        for row in getattr(import_module(module), function)(*arguments):
            sender.send(("row", row))
        sender.send(("ok", ""))
    except CannotRunError as skip:
        sender.send(("skipped", str(skip)))
    except BaseException as error:  # also the SystemExit of a stopped training
        traceback.print_exc()
        sender.send(("failed", one_line(error)))


def one_line(error: BaseException) -> str:
    """An error in one line, with its type unless it is a user's."""
    text = " ".join(str(error).split())[:REASON_LENGTH]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
