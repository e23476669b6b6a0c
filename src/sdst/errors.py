"""The one exception that means "the user's input is wrong", and the argument parser that raises it."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UserError(Exception):
    """Bad input. The message is one line: the file or key, what is wrong with it, what to do.

    The console script prints it to stderr without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader passes its worker's exception on with the worker's traceback as the message.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2])


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UserError`` where argparse would print its usage and exit."""
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")
