"""Command lines: an argument parser with one-line errors, and argparse types that check numbers."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, NoReturn

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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
    """An argument parser whose errors are one line, and whose text options take values that begin with a dash."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, but read ``--vid -FW109cbv0g`` as ``--vid=-FW109cbv0g``."""
        return super().parse_known_args(self._joined(sys.argv[1:] if args is None else args), namespace)

    def _joined(self, args: Sequence[str]) -> list[str]:
        """The arguments, with a dashed value joined to the option before it unless it may be an option itself."""
        joined: list[str] = []
        waiting = False
        for arg in args:
            if waiting and arg.startswith("-") and not self._may_be_option(arg):
                joined[-1] += f"={arg}"
                waiting = False
                continue
            joined.append(arg)
            action = self._option_string_actions.get(arg)
            waiting = action is not None and action.nargs is None and action.type is None
        return joined

    def _may_be_option(self, arg: str) -> bool:
        return arg in ("-", "--") or any(option.startswith(arg) for option in self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raise ``UserError`` where argparse would print its usage and exit."""
        raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")
