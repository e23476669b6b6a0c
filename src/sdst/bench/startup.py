"""``sdst bench startup``: time from starting a command to its help text or first training step."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.bench.process import CONSOLE_SCRIPT, command
from sdst.bench.rounds import interleave, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdst.bench.report import Row

UNTIL_FIRST_STEP = f"""
import os
from sdst.training.callbacks.step_timer import StepTimer
StepTimer.on_train_batch_end = lambda *_: os._exit(0)
{CONSOLE_SCRIPT}
"""
"""Program like ``sdst`` that exits after the first training step."""


def bench_startup(overrides: Sequence[str], rounds: int, threads: int | None) -> list[Row]:
    """Seconds until help is printed, and until the first training step is done.

    Args:
        overrides: Overrides of the training, such as ``data=world``.
        rounds: Number of timed starts per command.
        threads: Number of PyTorch threads; None for PyTorch's default.
    """
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def train() -> None:
            run_dir = Path(folder) / str(next(numbers))
            command("train", *overrides, f"run_dir={run_dir}", program=UNTIL_FIRST_STEP, threads=threads)()

        jobs: dict[str, Callable[[], object]] = {
            "sdst --help": command("--help"),
            "sdst evaluate --help": command("evaluate", "--help"),
            "sdst train --help": command("train", "--help"),
            " ".join(["sdst train", *overrides, "to its first step"]): train,
        }
        seconds = interleave(jobs, rounds)
    return [{"command": name, "seconds": spread(times)} for name, times in seconds.items()]
