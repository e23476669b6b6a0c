"""Progress on stderr for what takes longer than two seconds; nothing where stderr is no terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def progress_bars() -> Progress:
    """A context in which every task has a bar with its count, rate and time left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    # Otherwise what is meant for stdout would be shown above the bars, on stderr.
    return Progress(*columns, console=console, redirect_stdout=False, disable=not sys.stderr.isatty())


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps per second, once there is one to tell."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")
