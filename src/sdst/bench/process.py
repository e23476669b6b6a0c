"""Whole commands in processes of their own, as a user would start them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

CONSOLE_SCRIPT = "import sys; from sdst.cli import main; sys.exit(main())"
"""What the console script ``sdst`` runs."""


def command(*arguments: str, program: str = CONSOLE_SCRIPT, threads: int | None = None) -> Callable[[], None]:
    """A job that runs ``sdst`` with these arguments and waits for its end.

    Args:
        arguments: After ``sdst``.
        program: Python code to run in the place of the console script.
        threads: Of PyTorch, or None for its own choice.

    Raises:
        UserError: The command failed; with the last line it said. Raised by the job.
    """
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            raise UserError(f"sdst {' '.join(arguments)}: exit status {done.returncode}: {said[-1]}")

    return run
