"""Commands in separate processes that start fast: they are forked from a process with the slow imports done."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import torch

from sdst.cli import main

PRELOADED = [
    "sdst.training.fit",
    "sdst.sweeps.commands",
    "sdst.features.backbone.backbone",
    "sdst.features.clip_loader",
    "sdst.reports.commands",
]


@cache
def server() -> Any:
    """Context that forks processes from one that has already imported PyTorch and Lightning."""
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_USAGE_STATS_ENABLED": "0"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def send_stderr_to(output: Connection) -> None:
    """Send standard error of a forked process to ``output`` and discard standard output."""
    os.dup2(output.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  # open until the process ends


class Command:
    """Process that runs ``sdst`` with these arguments.

    Args:
        arguments: Arguments after ``sdst``.
        prepare: Functions that the process calls first; they must be defined in a module of ``helpers``.
    """

    def __init__(self, arguments: Sequence[str], *prepare: Callable[[], None]) -> None:
        self._output, theirs = server().Pipe(duplex=False)
        self._process = server().Process(target=_run, args=(list(arguments), theirs, prepare))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    @property
    def is_alive(self) -> bool:
        return bool(self._process.is_alive())

    def wait(self) -> tuple[int, list[str]]:
        """Return the exit status (negative for a signal) and the lines of standard error."""
        with open(self._output.fileno(), closefd=False, errors="replace") as output:
            lines = output.read().splitlines()
        self._process.join(60)
        return self._process.exitcode, lines


def _run(arguments: list[str], output: Connection, prepare: Sequence[Callable[[], None]]) -> None:
    send_stderr_to(output)
    for function in prepare:
        function()
    sys.exit(main(arguments))


# --- functions for ``prepare`` ---


def fork_ranks() -> None:
    """Fork the processes of a distributed training from this one, so that they do not repeat the imports."""
    context = multiprocessing.get_context("fork")
    torch.multiprocessing.get_context = lambda method=None: context


def die_at_step_8() -> None:
    """Kill this process in its eighth training step."""
    _at_step(8, lambda: os.kill(os.getpid(), signal.SIGKILL))


def terminate_at_step_2() -> None:
    """Send SIGTERM to the parent command from rank 0 in its second training step."""

    def ask() -> None:
        if os.environ["LOCAL_RANK"] == "0":
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(1)  # time for the command to pass the signal on; the other ranks wait for this step

    _at_step(2, ask)


def _at_step(number: int, act: Callable[[], None]) -> None:
    from sdst.training.module import GroundingModule

    original, steps = GroundingModule.training_step, []

    def counted(self: GroundingModule, *given: Any) -> Any:
        steps.append(None)
        if len(steps) == number:
            act()
        return original(self, *given)

    GroundingModule.training_step = counted
