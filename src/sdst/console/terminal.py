"""Text from files, shown to people: names and queries of strangers must do nothing to a terminal."""

from __future__ import annotations

import logging
import sys


def printable(text: str) -> str:
    """The text with all that cannot be seen as escapes: control codes, changes of direction, half characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Let messages of this level and above go to stderr as they are, unless logging was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class PrintableFormatter(logging.Formatter):
    """Formats a message as it is, in printable lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        return "\n".join(map(printable, super().format(record).split("\n")))
