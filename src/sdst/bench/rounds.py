"""Timing of several jobs in interleaved rounds, so that other load on the machine affects all of them equally."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Spread:
    """Median and range over several rounds, of seconds or ratios; prints as "median (lowest to highest)"."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.lowest:.4g} to {self.highest:.4g})"


def spread(values: Sequence[float]) -> Spread:
    """Median and range of one number per round."""
    return Spread(median(values), min(values), max(values))


def interleave(
    jobs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Run every job once per round and time it.

    The first run of each job does not count, because it compiles, fills caches and allocates. Every other round runs
    the jobs in reverse order, so that no job always follows the same one.

    Args:
        jobs: Name -> function to time.
        rounds: Number of rounds, at least one.
        clock: Function that returns the time in seconds.

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
    """Ratio of the first job's time to the second's per round, so that load on a whole round cancels out."""
    return spread([a / b for a, b in zip(first, second, strict=True)])
