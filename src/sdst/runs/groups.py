"""Runs that differ in nothing but their seed, as groups with mean and deviation of each metric."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdst.config.words import differing
from sdst.runs.table import marks, short, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.runs.row import RunRow


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in nothing but their seed: number of finished ones, mean and deviation of each metric."""

    words: Mapping[str, str]
    runs: tuple[RunRow, ...]

    @property
    def features(self) -> str:
        """The mark of simulated features, if a run has it."""
        return max(row.features for row in self.runs)

    def values(self, name: str) -> list[float]:
        """Values of a metric."""
        return [row.metrics[name] for row in self.runs if row.metrics and name in row.metrics]


def grouped(rows: Sequence[RunRow]) -> list[Group]:
    """Gather the runs that differ in their seed alone, in the order of the first of each.

    Their words leave out options that some models lack and in which the others agree, unless only these tell two
    groups apart.
    """
    keys = [key for key in differing([row.words for row in rows]) if key != "seed"]
    gathered: dict[tuple[str, ...], list[RunRow]] = {}
    for row in rows:
        gathered.setdefault(tuple(row.words.get(key, "") for key in keys), []).append(row)
    every = [dict(zip(keys, said, strict=True)) for said in gathered]
    telling = [key for key in keys if len({said[key] for said in every} - {""}) > 1]
    words = [{key: said[key] for key in telling} for said in every]
    if any(said in words[:place] for place, said in enumerate(words)):
        words = every
    return [Group(said, tuple(runs)) for said, runs in zip(words, gathered.values(), strict=True)]


def grouped_markdown(rows: Sequence[RunRow]) -> str:
    """Mean ± sample standard deviation over seeds, a line per group of runs."""
    groups, metrics = grouped(rows), shown(rows)
    keys = list(groups[0].words)
    marked = marks(rows)
    header = [*keys, "seeds", *(short(name) for name in metrics), *marked]
    body = [
        [
            *group.words.values(),
            str(sum(row.metrics is not None for row in group.runs)),
            *(mean(group.values(name)) for name in metrics),
            *(group.features for _ in marked),
        ]
        for group in groups
    ]
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grouped_csv(rows: Sequence[RunRow]) -> str:
    """Mean and deviation of every metric, unrounded, a line per group of runs."""
    groups = grouped(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.metrics or {}))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    marked = marks(rows)
    columns = [part for name in names for part in (name, f"{name} std")]
    writer.writerow([*groups[0].words, "seeds", *columns, *marked])
    for group in groups:
        cells: list[Any] = []
        for name in names:
            values = group.values(name)
            cells.append(statistics.fmean(values) if values else "")
            cells.append(statistics.stdev(values) if len(values) > 1 else "")
        cells += [group.features for _ in marked]
        writer.writerow([*group.words.values(), sum(row.metrics is not None for row in group.runs), *cells])
    return file.getvalue()


def mean(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation as text; "" without values."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"
