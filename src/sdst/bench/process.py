"""Running complete commands in separate processes, as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

CONSOLE_SCRIPT = "import sys; from sdst.cli import main; sys.exit(main())"
"""Program that does the same as the console script ``sdst``."""


def command(*arguments: str, program: str = CONSOLE_SCRIPT, threads: int | None = None) -> Callable[[], None]:
    """A job that runs ``sdst`` with these arguments and waits for its end.

    Args:
        arguments: Arguments after ``sdst``.
        program: Python code to run instead of the console script.
        threads: Number of PyTorch threads; None for PyTorch's default.

    Raises:
        UserError: The command failed. Raised by the job, with the last line of the command's stderr.
    """
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no output on stderr"]
            raise UserError(f"sdst {' '.join(arguments)}: exit status {done.returncode}: {lines[-1]}")

    return run
