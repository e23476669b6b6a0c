"""Exceptions that are not bugs: bad input, failed jobs, and a stop by SIGTERM."""

from __future__ import annotations

import signal

STOPPED = 128 + signal.SIGTERM
"""Exit status 143, as of any program that SIGTERM ends."""


class UserError(ValueError):
    """Bad input. The message is one line: what was expected of which file or key, what was found, what to do.

    The console script prints the message to stderr without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's exception again with the worker's traceback as the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2])


class JobsFailedError(Exception):
    """Jobs of a multirun have failed; their reasons were printed. The command ends with status 1."""


class Stopped(SystemExit):
    """SIGTERM stopped the process with exit status :data:`STOPPED`; its work can be continued."""

    def __init__(self) -> None:
        super().__init__(STOPPED)
