"""Exceptions that are not bugs: bad input, and SIGTERM."""

from __future__ import annotations

import signal

STOPPED = 128 + signal.SIGTERM
"""Exit status 143: that of any program which SIGTERM ends."""


class UserError(ValueError):
    """Bad input. The message is one line: the file or key, what is wrong with it, what to do.

    The console script prints it to stderr without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader passes its worker's exception on with the worker's traceback as the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2])


class Stopped(SystemExit):
    """SIGTERM has ended the process, as :data:`STOPPED` says; what it had done can be continued."""

    def __init__(self) -> None:
        super().__init__(STOPPED)
