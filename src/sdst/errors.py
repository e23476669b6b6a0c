"""Exceptions that are no bugs, "the user's input is wrong" above all, and the argument parser that raises it."""

from __future__ import annotations

import argparse
import math
import signal
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


STOPPED = 128 + signal.SIGTERM
"""Exit status 143: that of any program which SIGTERM ends."""


class UserError(Exception):
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


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number of at least ``least``."""

    def whole_number(text: str) -> int:
        if (number := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return number

    return whole_number


def positive_number(text: str) -> float:
    """An argparse type: a finite number above 0."""
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text} is no finite number above 0")
    return number


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UserError`` where argparse would print its usage and exit."""
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")
