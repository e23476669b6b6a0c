"""Time several things side by side: in interleaved rounds, so that a busy minute of the machine hits all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Spread:
    """What several rounds gave, seconds or ratios; prints as "median (lowest to highest)"."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.lowest:.4g} to {self.highest:.4g})"


def spread(values: Sequence[float]) -> Spread:
    """The median of one number per round, and how far the rounds are apart."""
    return Spread(median(values), min(values), max(values))


def interleave(
    jobs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Run every job once per round and time it.

    A first run of each is not counted: it compiles, fills caches and allocates. Every other round goes through the
    jobs backwards, so that none always follows the same one.

    Args:
        jobs: Name -> what to time.
        rounds: How often, at least once.
        clock: Seconds from any beginning.

    Returns:
        Name -> seconds of each round, in the order of the rounds.
    """
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds):
        names = list(jobs)
        for name in names if number % 2 == 0 else reversed(names):
            start = clock()
            jobs[name]()
            seconds[name].append(clock() - start)
    return seconds


def ratio(first: Sequence[float], second: Sequence[float]) -> Spread:
    """The first's time over the second's, round by round: what slows a whole round down cancels."""
    return spread([a / b for a, b in zip(first, second, strict=True)])
