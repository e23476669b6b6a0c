"""Progress of long work: bars on stderr, or a line in the log every minute where stderr is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

Item = TypeVar("Item")

logger = logging.getLogger(__name__)

LINE_SECONDS = 60


def progress_bars() -> Progress:
    """A context in which every task has a bar with its count, rate and time left."""
    if not sys.stderr.isatty():
        return _Lines()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    # Otherwise what is meant for stdout would be shown above the bars, on stderr.
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False)


def track(items: Collection[Item], description: str) -> Iterator[Item]:
    """The items, with a bar of their own while they are gone through."""
    with progress_bars() as bars:
        yield from bars.track(items, description=description)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps per second, once there is one to tell."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class _Lines(Progress):
    """Lines for whoever looks at a job's log; what is done within a minute needs none."""

    def __init__(self) -> None:
        super().__init__(disable=True, auto_refresh=False)
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        now = time.monotonic()
        if now >= self._told + LINE_SECONDS:
            self._told = now
            task = self._tasks[task_id]
            total = "" if task.total is None else f" of {task.total:,.0f}"
            logger.info("%s: %s%s", task.description, f"{task.completed:,.0f}", total)
