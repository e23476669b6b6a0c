"""``runs.jsonl`` of earlier reports: numbers and origin of jobs whose run folders are elsewhere or gone."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdst.errors import UserError
from sdst.files.text import read_text
from sdst.training.run_folder import FACTS

if TYPE_CHECKING:
    from pathlib import Path

ORIGIN = ("git", "versions", "machine", "parameters", "features")
"""Keys of run.json that a record repeats."""


@dataclass(frozen=True, slots=True)
class Record:
    """A finished job of an earlier report.

    Attributes:
        source: File and line that it was read from.
        identity: Name of the job.
        seed: Its seed.
        rows: Experiment -> (label of the row, data set) of each row that shows the job.
        overrides: Experiment -> overrides that all jobs of its sweep had; experiments without any are left out.
        metrics: Content of its metrics.json.
        facts: ``ORIGIN``, and as "curve" the value after each epoch of the metric that chose the checkpoint.
    """

    source: str
    identity: str
    seed: int
    rows: dict[str, list[tuple[str, str]]]
    overrides: dict[str, tuple[str, ...]]
    metrics: dict[str, Any]
    facts: dict[str, Any]


def read_records(path: Path, scale: str) -> list[Record]:
    """Read a file that :func:`sdst.reports.overview.records` wrote.

    Raises:
        UserError: The file cannot be read, was not written by ``sdst report --all``, or has jobs of another scale.
    """
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        source = f"{path}:{number}"
        try:
            job = json.loads(line)
            found.append(_record(source, job))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{source}: not written by sdst report --all of this version ({error}); give its runs.jsonl"
            ) from error
        if job["scale"] != scale:
            raise UserError(
                f"{source}: holds a job of scale '{job['scale']}', expected '{scale}'; give --scale {job['scale']}"
            )
    return found


def _record(source: str, job: dict[str, Any]) -> Record:
    """Check a row, because its name becomes part of paths and its values go into tables and pictures."""
    curve = job["curve"]
    parts = {
        "scale": isinstance(job["scale"], str),
        "job": re.fullmatch(r"[0-9a-f]{12}", job["job"]),
        "seed": type(job["seed"]) is int,
        "metrics": all(isinstance(job["metrics"].get(key), kind) for key, kind in FACTS.items()),
        "curve": curve is None or (curve and all(type(value) in (int, float) for value in curve)),
    } | {key: job[key] is None or isinstance(job[key], dict) for key in ORIGIN}
    if bad := next((key for key, good in parts.items() if not good), None):
        raise ValueError(f"'{bad}' is of another kind")
    rows = {name: [(str(label), str(data)) for label, data in rows] for name, rows in job["rows"].items()}
    overrides = {name: tuple(map(str, given)) for name, given in job["overrides"].items()}
    facts = {key: job[key] for key in ORIGIN if job[key] is not None} | {"curve": curve}
    return Record(source, job["job"], job["seed"], rows, overrides, job["metrics"], facts)
