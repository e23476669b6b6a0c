"""Overview of all tables and figures: their state, their cost, and how many jobs they share."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdst.reports.records import ORIGIN
from sdst.reports.results import collect
from sdst.sweeps.manifest import manifest, read_manifest, read_overrides

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdst.reports.records import Record
    from sdst.reports.results import RowResult, Run
    from sdst.sweeps.tables import Experiment


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment at one scale.

    Attributes:
        experiment: Table or figure.
        scale: Scale of its sweep.
        rows: Rows with all runs of the sweep, finished or not.
        shared: Number of its jobs that other experiments use, too.
        overrides: Overrides that all its jobs have, besides those of their rows.
    """

    experiment: Experiment
    scale: str
    rows: tuple[RowResult, ...]
    shared: int
    overrides: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        """Runs of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def state(self) -> str:
        """State of the jobs, such as "6 finished, 1 failed"."""
        if not self.experiment.jobs(self.scale):
            return "published numbers only"
        counts = Counter(run.status for run in self.runs)
        parts = [f"{counts[name]} {name}" for name in ("finished", "failed", "missing") if counts[name]]
        return ", ".join(parts) or "not run"

    @property
    def cost(self) -> str:
        """Training time of all jobs and number of shared jobs, as text; "" if nothing was run."""
        jobs = "1 job" if self.shared == 1 else f"{self.shared} jobs"
        return f"{duration(training_seconds(self.runs))}, {jobs} shared" if self.runs else ""


def overview(
    experiments: Sequence[Experiment], scale: str, runs: Path, kept: Sequence[Record] = ()
) -> list[Entry]:
    """State of each experiment's sweep.

    Args:
        experiments: All experiments, because they can share jobs.
        scale: Scale of their sweeps.
        runs: Folder that contains ``jobs`` and ``sweeps``.
        kept: Finished jobs of earlier reports.

    Raises:
        UserError: A run's file is damaged, or a kept job does not belong into its table.
    """
    collected = []
    for experiment in experiments:
        path = manifest(runs, experiment.name, scale)
        collected.append(collect(experiment, scale, read_manifest(path), runs, read_overrides(path), kept))
    uses = Counter(name for results in collected for name in _identities(results.runs))
    return [
        Entry(
            results.experiment,
            scale,
            results.rows,
            sum(uses[name] > 1 for name in _identities(results.runs)),
            results.overrides,
        )
        for results in collected
    ]


def records(entries: Sequence[Entry]) -> str:
    """JSON Lines with numbers and origin of every finished job, to keep when run folders are deleted.

    :func:`sdst.reports.records.read_records` reads them.

    Args:
        entries: Entries of all experiments at one scale.
    """
    jobs: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for row in entry.rows:
            for run in row.runs:
                if run.identity is None or run.status != "finished":
                    continue
                if run.identity not in jobs:
                    what = {
                        "job": run.identity,
                        "scale": entry.scale,
                        "seed": run.seed,
                        "rows": {},
                        "overrides": {},
                    }
                    origin = {key: run.facts.get(key) for key in ORIGIN}
                    jobs[run.identity] = what | {"metrics": run.metrics} | origin | {"curve": run.curve()}
                name, job = entry.experiment.name, jobs[run.identity]
                job["rows"].setdefault(name, []).append([row.row.label, run.dataset])
                if entry.overrides:
                    job["overrides"][name] = list(entry.overrides)
    return "".join(json.dumps(jobs[name], ensure_ascii=False) + "\n" for name in sorted(jobs))


def training_seconds(runs: Iterable[Run]) -> float:
    """Total training time including validation; a job counts once."""
    by_identity = {run.identity: run.metrics.get("fit_seconds", 0.0) for run in runs}
    return float(sum(by_identity.values()))


def duration(seconds: float) -> str:
    """A time as text, such as "12 s", "35 min" or "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _identities(runs: Iterable[Run]) -> set[str]:
    return {run.identity for run in runs if run.identity is not None}
