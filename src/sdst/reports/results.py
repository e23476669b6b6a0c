"""Numbers of a sweep for each row and column of a table, read from run folders and the sweep's list of jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.config.words import typed, words
from sdst.errors import UserError
from sdst.sweeps.jobs import status
from sdst.sweeps.tables import RUN_FACTS, number
from sdst.training.curves import selected_curve
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdst.reports.records import Record
    from sdst.sweeps.manifest import Planned
    from sdst.sweeps.tables import Column, Experiment, Row
    from sdst.training.run_folder import Status


@dataclass(frozen=True, slots=True)
class Run:
    """One job of a row.

    Attributes:
        dataset: Data set, as named in the experiment.
        seed: Seed of the run.
        identity: Name of the job; None if the row's model is not implemented.
        status: State of the job on disk.
        folder: Run folder; it may not exist.
        metrics: Content of metrics.json; empty until the run is finished.
        facts: Content of run.json, or what an earlier report kept of it; empty if there is neither.
    """

    dataset: str
    seed: int
    identity: str | None
    status: Status
    folder: Path
    metrics: dict[str, Any]
    facts: dict[str, Any]

    def curve(self) -> list[float] | None:
        """The metric that chose the checkpoint, after each epoch; None if unfinished or without a CSV log."""
        if self.status != "finished":
            return None
        if "curve" in self.facts:
            kept: list[float] | None = self.facts["curve"]
            return kept
        return selected_curve(self.folder, self.metrics)

    def value(self, column: Column) -> float | None:
        """The run's number for a column, in the column's unit; None if there is no such number."""
        if column.key is None or column.dataset not in (None, self.dataset):
            return None
        if column.key == "parameters.total":
            total = self._number("run.json", self.facts, "parameters", "total")
            return None if total is None or self.status != "finished" else total / 1e6
        if column.key in RUN_FACTS:
            return self._number("metrics.json", self.metrics, column.key)
        return self._number("metrics.json", self.metrics, "best", column.split, column.key)

    def _number(self, file: str, tree: Any, *keys: str | None) -> float | None:
        """The number at nested keys; None if a key is missing."""
        for key in keys:
            if tree is not None and not isinstance(tree, dict):
                raise self._damaged(file, keys)
            tree = None if tree is None else tree.get(key)
        if tree is not None and (isinstance(tree, bool) or not isinstance(tree, int | float)):
            raise self._damaged(file, keys)
        return tree

    def _damaged(self, file: str, keys: Iterable[str | None]) -> UserError:
        place = ".".join(map(str, keys))
        return UserError(
            f"{self.folder / file}: {place} must be a number; remove the run folder and sweep again"
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """Our numbers and the paper's.

    Attributes:
        values: Seed -> our number, for all finished runs.
        paper: Number as printed; None if it is missing.
    """

    values: dict[int, float]
    paper: str | None

    @property
    def mean(self) -> float | None:
        """Mean over the seeds."""
        return float(np.mean(list(self.values.values()))) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two seeds."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Our mean minus the paper's number."""
        printed = number(self.paper)
        return None if self.mean is None or printed is None else self.mean - printed


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row with its runs (one per data set and seed) and its cells (one per column)."""

    row: Row
    runs: tuple[Run, ...]
    cells: tuple[Cell, ...]

    @property
    def num_seeds(self) -> int:
        """Number of seeds that are finished on all data sets of the row."""
        datasets = {run.dataset for run in self.runs}
        done = [
            {run.seed for run in self.runs if run.dataset == name and run.status == "finished"}
            for name in datasets
        ]
        return len(set.intersection(*done)) if done else 0


@dataclass(frozen=True, slots=True)
class Results:
    """An experiment at one scale with all its runs."""

    experiment: Experiment
    scale: str
    rows: tuple[RowResult, ...]
    overrides: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """Runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def most_seeds(self) -> int:
        """Highest number of finished seeds of any row."""
        return max((row.num_seeds for row in self.rows), default=0)

    def state(self, row: RowResult) -> str:
        """What is missing from a row, as text; "" if the row is complete."""
        if row.row.overrides is None:
            return ""
        if not row.row.is_run_at(self.scale):
            return f"not at {self.scale} scale"
        if not row.runs:
            return "not run"
        if any(run.identity is None for run in row.runs):
            return "not implemented"
        parts = []
        runs = "1 run" if len(row.runs) == 1 else f"{len(row.runs)} runs"
        for state, text in (("failed", "failed"), ("missing", "not finished")):
            if count := sum(run.status == state for run in row.runs):
                parts.append(f"{count} of {runs} {text}")
        if not parts and row.num_seeds < self.most_seeds:
            parts.append(f"{row.num_seeds} of {self.most_seeds} seed{'s' * (self.most_seeds != 1)}")
        return ", ".join(parts)

    @property
    def reference(self) -> RowResult | None:
        """The row of SDST itself, with which the others are compared."""
        return next((row for row in self.rows if row.row.overrides == ()), None)


def collect(
    experiment: Experiment,
    scale: str,
    planned: Iterable[Planned],
    runs: Path,
    overrides: Sequence[str] = (),
    kept: Sequence[Record] = (),
) -> Results:
    """Read the results of all jobs of an experiment.

    Args:
        experiment: Table or figure.
        scale: Scale of its sweep.
        planned: Jobs of the sweep.
        runs: Folder that contains ``jobs``.
        overrides: Overrides that all jobs have, besides those of their rows.
        kept: Finished jobs of earlier reports. Each fills the place of its row, data set and seed, unless ``runs`` has
            a finished run for it.

    Raises:
        UserError: A run's file is damaged, or a kept job belongs to a row that the experiment lacks or has other
            overrides than the other jobs.
    """
    found: dict[tuple[str, str, int], Run] = {}
    for job in planned:
        folder = runs / "jobs" / str(job.identity)
        state: Status = "missing" if job.identity is None else status(runs / "jobs", job.identity)
        files = RunFolder(folder)
        metrics = files.metrics() if state == "finished" else {}
        run = Run(job.dataset, job.seed, job.identity, state, folder, metrics, files.facts())
        found[job.row, job.dataset, job.seed] = run
    labels = {row.label for row in experiment.rows}
    of_all = tuple(typed(words(overrides))) if found else None
    for record in kept:
        for label, dataset in record.rows.get(experiment.name, ()):
            if label not in labels:
                raise UserError(
                    f"{record.source}: holds a job of row '{label}', which {experiment.name} lacks; "
                    "correct the name, or delete the line"
                )
            theirs = record.overrides.get(experiment.name, ())
            of_all = theirs if of_all is None else of_all
            if theirs != of_all:
                had, expected = (" ".join(given) or "none" for given in (theirs, of_all))
                raise UserError(
                    f"{record.source}: all jobs of its sweep of {experiment.name} had these overrides: {had}; "
                    f"the other jobs have: {expected}; report them apart"
                )
            place = (label, dataset, record.seed)
            if place not in found or found[place].status != "finished":
                folder = runs / "jobs" / record.identity
                found[place] = Run(
                    dataset, record.seed, record.identity, "finished", folder, record.metrics, record.facts
                )
    by_row: dict[str, list[Run]] = {}
    for (label, _, _), run in sorted(found.items(), key=lambda item: item[0][2]):
        by_row.setdefault(label, []).append(run)
    return Results(
        experiment,
        scale,
        tuple(_row(row, by_row.get(row.label, []), experiment) for row in experiment.rows),
        of_all or (),
    )


def _row(row: Row, runs: Sequence[Run], experiment: Experiment) -> RowResult:
    cells = []
    for column, paper in zip(experiment.columns, row.paper, strict=True):
        values = {run.seed: value for run in runs if (value := run.value(column)) is not None}
        cells.append(Cell(values, paper))
    return RowResult(row, tuple(runs), tuple(cells))
