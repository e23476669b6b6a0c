"""Exceptions that are not bugs: bad input, failed jobs, and a stop by a signal."""

from __future__ import annotations


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
    """A signal stopped the process; its work can be continued.

    Args:
        number: The signal. The exit status is that of any program that it ends: 143 for SIGTERM, 130 for Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
