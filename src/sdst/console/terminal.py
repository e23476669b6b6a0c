"""Text from files, made safe to print: strangers' names and queries must not control the terminal."""

from __future__ import annotations

import logging
import sys


def printable(text: str) -> str:
    """The text with unprintable characters escaped: control codes, changes of direction, halves of characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write log messages of this level and above to stderr without decoration, unless logging is already set up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class PrintableFormatter(logging.Formatter):
    """Formats a record as :func:`printable` lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        return "\n".join(map(printable, super().format(record).split("\n")))
