"""Command lines: an argument parser with one-line errors, and checked types for its options."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, NoReturn

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


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
