"""Several processes that train one run: how they start and how they end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from datetime import timedelta
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from sdst.config.checks import num_processes
from sdst.console.terminal import log_to_stderr
from sdst.errors import Stopped, UserError
from sdst.files.orphans import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals after which a run is saved and stops."""
STOPPED: dict[int | None, int] = {128 + number: number for number in SIGNALS}
"""Exit status of a process that a signal has stopped -> the signal."""
TIMEOUT = timedelta(minutes=10)
"""Time that a process waits for the others within a step or an evaluation before it gives up."""


def is_started() -> bool:
    """Whether this process is one of several, started by :func:`run_processes` or by torchrun."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the one that writes; a single process always is."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def make_strategy(trainer: DictConfig, *, unused_parameters: bool) -> DDPStrategy | str:
    """Lightning's strategy: DDP for several processes, ``auto`` for one.

    Args:
        trainer: Configuration of the trainer.
        unused_parameters: Whether some parameters get no gradient, such as a head whose loss is off.
    """
    if num_processes(trainer) == 1:
        return "auto"
    return DDPStrategy(timeout=TIMEOUT, find_unused_parameters=unused_parameters)


def make_environment() -> LightningEnvironment | TorchElasticEnvironment:
    """The plugin that tells Lightning which process this is, as torchrun or :func:`run_processes` has set it.

    Without it, Lightning would ask Slurm within a Slurm job, and take over its signals.
    """
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def run_processes(world: int, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in several new processes and wait for all; if one dies, end the others.

    SIGTERM and Ctrl-C are passed on to them.

    Args:
        world: Number of processes.
        function: Function at the top level of a module; every process calls it with the arguments.
        arguments: Arguments that can be pickled.

    Raises:
        UserError: A process raised it, or a process died.
        Stopped: SIGTERM or Ctrl-C has come here or to one of the processes.
        KeyboardInterrupt: Ctrl-C has come twice.
    """
    context = torch.multiprocessing.get_context("spawn")
    messages, port = context.SimpleQueue(), find_free_network_port()
    processes = [
        context.Process(target=_run_rank, args=(rank, world, port, messages, function, arguments))
        for rank in range(world)
    ]
    left, dead, stopped = dict(enumerate(processes)), list[tuple[int, int]](), 0

    def stop(number: int, *_: object) -> None:
        nonlocal stopped
        if number == stopped == signal.SIGINT:
            raise KeyboardInterrupt
        stopped = number
        for process in processes:
            if process.is_alive():
                process.terminate()

    before = [signal.signal(number, stop) for number in SIGNALS]
    try:
        for process in processes:
            process.start()
        while left and not dead:
            ended = connection.wait([process.sentinel for process in left.values()])
            for rank in [rank for rank, process in left.items() if process.sentinel in ended]:
                process = left.pop(rank)
                process.join()
                if process.exitcode in STOPPED and not stopped:
                    stop(STOPPED[process.exitcode])  # the signal came to this one alone
                elif process.exitcode != 0 and process.exitcode not in STOPPED:
                    dead.append((rank, process.exitcode or 0))
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        for process in left.values():
            if process.is_alive():
                process.kill()  # it may wait for the dead one; its files are written atomically
                process.join()
    if stopped:
        raise Stopped(stopped)
    while not messages.empty():
        is_refusal, message = messages.get()
        if is_refusal:
            raise UserError(message)
        if all(code > 0 for _, code in dead):  # otherwise it only reports that another was killed
            sys.stderr.write(message)
    if dead:
        rank, code = min(dead, key=lambda death: death[1])
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise UserError(
            f"trainer.devices: process {rank + 1} of {world} ended with {how}, so the others were ended too; "
            "continue from the last checkpoint with resume"
        )


def _run_rank(
    rank: int, world: int, port: int, messages: Any, function: Callable[..., object], arguments: Sequence[Any]
) -> None:
    """Run the function as one of the processes, and send its error to the parent."""
    end_with_parent()
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(max(1, torch.get_num_threads() // world))
    log_to_stderr(logging.INFO if rank == 0 else logging.ERROR)
    if rank:
        warnings.simplefilter("ignore")  # the first process warns for all
    try:
        function(*arguments)
    except UserError as error:
        messages.put((True, str(error)))
        sys.exit(2)
    except Exception:
        # Not printed here, because it may only follow from another process's error.
        messages.put((False, traceback.format_exc()))
        sys.exit(1)
