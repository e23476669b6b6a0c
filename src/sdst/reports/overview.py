"""All tables and figures at a glance: what of them was run, what it cost, and which jobs they have in common."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdst.reports.results import collect
from sdst.sweeps.commands import manifest, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdst.reports.results import RowResult, Run
    from sdst.sweeps.tables import Experiment


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment at one scale.

    Attributes:
        experiment: The table or figure.
        scale: Of its sweep.
        rows: With the runs of its sweep, finished or not.
        shared: How many of its jobs are other experiments' too.
    """

    experiment: Experiment
    scale: str
    rows: tuple[RowResult, ...]
    shared: int

    @property
    def runs(self) -> list[Run]:
        """Of all rows."""
        return [run for row in self.rows for run in row.runs]

    @property
    def state(self) -> str:
        """What was run, such as "6 finished, 1 failed"."""
        if not self.experiment.jobs(self.scale):
            return "published numbers only"
        counts = Counter(run.status for run in self.runs)
        told = [f"{counts[name]} {name}" for name in ("finished", "failed", "missing") if counts[name]]
        return ", ".join(told) or "not run"

    @property
    def cost(self) -> str:
        """The training time of all its jobs, and how many of them are shared; "" where nothing was run."""
        jobs = "1 job" if self.shared == 1 else f"{self.shared} jobs"
        return f"{duration(training_seconds(self.runs))}, {jobs} shared" if self.runs else ""


def overview(experiments: Sequence[Experiment], scale: str, runs: Path) -> list[Entry]:
    """What was run of each experiment.

    Args:
        experiments: Those that may share jobs.
        scale: Of their sweeps.
        runs: The folder that has ``jobs`` and ``sweeps``.

    Raises:
        UserError: A run's file is damaged.
    """
    found = []
    for experiment in experiments:
        planned = read_manifest(manifest(runs, experiment.name, scale))
        found.append(collect(experiment, scale, planned, runs))
    uses = Counter(name for theirs in found for name in _identities(theirs.runs))
    return [
        Entry(theirs.experiment, scale, theirs.rows, sum(uses[name] > 1 for name in _identities(theirs.runs)))
        for theirs in found
    ]


def records(entries: Sequence[Entry]) -> str:
    """JSON Lines, one for each finished job, with what outlives its run folder: its numbers and where they are from.

    Args:
        entries: Of all experiments at one scale.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for row in entry.rows:
            for run in row.runs:
                if run.identity is None or run.status != "finished":
                    continue
                origin = {key: run.facts.get(key) for key in ("git", "versions", "machine", "parameters")}
                job = found.setdefault(
                    run.identity,
                    {"job": run.identity, "seed": run.seed, "rows": {}, "metrics": run.metrics} | origin,
                )
                job["rows"].setdefault(entry.experiment.name, []).append([row.row.label, run.dataset])
    return "".join(json.dumps(found[name], ensure_ascii=False) + "\n" for name in sorted(found))


def training_seconds(runs: Iterable[Run]) -> float:
    """What training took, the validation after each epoch included, each job counted once."""
    by_identity = {run.identity: run.metrics.get("fit_seconds", 0.0) for run in runs}
    return float(sum(by_identity.values()))


def duration(seconds: float) -> str:
    """A time for people: "12 s", "35 min", "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _identities(runs: Iterable[Run]) -> set[str]:
    return {run.identity for run in runs if run.identity is not None}
