"""Progress of long work: bars on stderr, or a line in the log every minute if stderr is not a terminal."""

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
    """A context that shows a bar with count, rate and time left for each task."""
    if not sys.stderr.isatty():
        return _Lines()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
    )
    # Without redirect_stdout=False, text for stdout would appear on stderr, above the bars.
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False)


def track(items: Collection[Item], description: str) -> Iterator[Item]:
    """Iterate over the items under a progress bar."""
    with progress_bars() as bars:
        yield from bars.track(items, description=description)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps per second, or nothing before it is known."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class _Lines(Progress):
    """Logs one line per minute, for batch jobs; work shorter than a minute logs nothing."""

    def __init__(self) -> None:
        super().__init__(disable=True, auto_refresh=False)
        self._last_line = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        now = time.monotonic()
        if now >= self._last_line + LINE_SECONDS:
            self._last_line = now
            task = self._tasks[task_id]
            total = "" if task.total is None else f" of {task.total:,.0f}"
            logger.info("%s: %s%s", task.description, f"{task.completed:,.0f}", total)
