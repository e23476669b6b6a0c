"""What the runs of a sweep say about each row and column of a table. Only run folders and the sweep's list are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.errors import UserError
from sdst.sweeps.jobs import status
from sdst.sweeps.tables import RUN_FACTS, number
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdst.sweeps.commands import Planned
    from sdst.sweeps.jobs import Status
    from sdst.sweeps.tables import Column, Experiment, Row


@dataclass(frozen=True, slots=True)
class Run:
    """One job of a row.

    Attributes:
        dataset: As the experiment names it.
        seed: The run's.
        identity: The job's name; None where the row's model is not there.
        status: What the disk says.
        folder: The run folder, which need not be there.
        metrics: Content of metrics.json; empty until the run is finished.
        facts: Content of run.json; empty where there is none.
    """

    dataset: str
    seed: int
    identity: str | None
    status: Status
    folder: Path
    metrics: dict[str, Any]
    facts: dict[str, Any]

    def value(self, column: Column) -> float | None:
        """The run's number in a column, in the column's unit; None where it has none."""
        if column.key is None or column.dataset not in (None, self.dataset):
            return None
        if column.key == "parameters.total":
            total = self._number("run.json", self.facts, "parameters", "total")
            return None if total is None or self.status != "finished" else total / 1e6
        if column.key in RUN_FACTS:
            return self._number("metrics.json", self.metrics, column.key)
        return self._number("metrics.json", self.metrics, "best", column.split, column.key)

    def _number(self, file: str, tree: Any, *keys: str | None) -> float | None:
        """The number below nested keys; None where there is none."""
        for key in keys:
            if tree is not None and not isinstance(tree, dict):
                raise self._damaged(file, keys)
            tree = None if tree is None else tree.get(key)
        if tree is not None and (isinstance(tree, bool) or not isinstance(tree, int | float)):
            raise self._damaged(file, keys)
        return tree

    def _damaged(self, file: str, keys: Iterable[str | None]) -> UserError:
        place = ".".join(map(str, keys))
        return UserError(f"{self.folder / file}: no number at {place}; remove the run folder and sweep again")


@dataclass(frozen=True, slots=True)
class Cell:
    """Ours beside the paper's number.

    Attributes:
        values: Seed -> our number, of the finished runs.
        paper: As printed, None where it is missing.
    """

    values: dict[int, float]
    paper: str | None

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return float(np.mean(list(self.values.values()))) if self.values else None

    @property
    def std(self) -> float | None:
        """Over the seeds, the sample's; None for fewer than two."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Our mean minus the paper's number."""
        printed = number(self.paper)
        return None if self.mean is None or printed is None else self.mean - printed


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row with its runs, one for each data set and seed, and its cells, one for each column."""

    row: Row
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]

    @property
    def num_seeds(self) -> int:
        """With how many seeds the row is finished on every one of its data sets."""
        datasets = {run.dataset for run in self.runs}
        done = [
            {run.seed for run in self.runs if run.dataset == name and run.status == "finished"}
            for name in datasets
        ]
        return len(set.intersection(*done)) if done else 0


@dataclass(frozen=True, slots=True)
class Results:
    """An experiment at one scale with all that was run for it."""

    experiment: Experiment
    scale: str
    rows: tuple[RowResult, ...]

    @property
    def runs(self) -> list[Run]:
        """Of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def most_seeds(self) -> int:
        """Of the row that was finished with most."""
        return max((row.num_seeds for row in self.rows), default=0)

    def state(self, row: RowResult) -> str:
        """What keeps a row from being whole, "" if nothing does."""
        if row.row.overrides is None:
            return ""
        if not row.row.is_run_at(self.scale):
            return f"not at {self.scale} scale"
        if not row.runs:
            return "not run"
        if any(run.identity is None for run in row.runs):
            return "not implemented"
        parts = []
        for state, text in (("failed", "failed"), ("missing", "not finished")):
            if count := sum(run.status == state for run in row.runs):
                parts.append(f"{count} of {len(row.runs)} runs {text}")
        if not parts and row.num_seeds < self.most_seeds:
            parts.append(f"{row.num_seeds} of {self.most_seeds} seeds")
        return ", ".join(parts)

    @property
    def reference(self) -> RowResult | None:
        """The row of SDST itself, which the others are compared with."""
        return next((row for row in self.rows if row.row.overrides == ()), None)


def collect(experiment: Experiment, scale: str, planned: Iterable[Planned], runs: Path) -> Results:
    """Read everything that was run.

    Args:
        experiment: The table.
        scale: Of its sweep.
        planned: The sweep's jobs.
        runs: The folder that has ``jobs``.

    Raises:
        UserError: A run's file is damaged.
    """
    by_row: dict[str, list[Run]] = {}
    for job in planned:
        folder = runs / "jobs" / str(job.identity)
        state: Status = "missing" if job.identity is None else status(runs / "jobs", job.identity)
        files = RunFolder(folder)
        metrics = files.metrics() if state == "finished" else {}
        run = Run(job.dataset, job.seed, job.identity, state, folder, metrics, files.facts())
        by_row.setdefault(job.row, []).append(run)
    return Results(
        experiment, scale, tuple(_row(row, by_row.get(row.label, []), experiment) for row in experiment.rows)
    )


def _row(row: Row, runs: Sequence[Run], experiment: Experiment) -> RowResult:
    cells = []
    for column, paper in zip(experiment.columns, row.paper, strict=True):
        values = {run.seed: value for run in runs if (value := run.value(column)) is not None}
        cells.append(Cell(values, paper))
    return RowResult(row, tuple(runs), tuple(cells))
