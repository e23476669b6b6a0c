"""Command lines: an argument parser with one-line errors, and argparse types that check numbers."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, NoReturn

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type for whole numbers of at least ``least``."""

    def whole_number(text: str) -> int:
        if (number := int(text)) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return number

    return whole_number


def positive_number(text: str) -> float:
    """An argparse type for finite numbers above 0."""
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"must be a finite number above 0, got {text}")
    return number


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UserError`` where argparse would print its usage and exit."""
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")
