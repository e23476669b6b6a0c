"""The file that maps the rows of a table to jobs, for ``sdst report``: ``RUNS/sweeps/EXPERIMENT-SCALE.json``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdst.errors import UserError
from sdst.files.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Planned:
    """A job of a row; ``identity`` is None if the row's model was not implemented, which older files have."""

    row: str
    dataset: str
    seed: int
    identity: str | None


def manifest(runs: Path, name: str, scale: str) -> Path:
    """Path of the file that lists a sweep's jobs."""
    return runs / "sweeps" / f"{name}-{scale}.json"


def write_manifest(path: Path, planned: Sequence[Planned], scale: str, overrides: Sequence[str]) -> None:
    """Write the jobs of a sweep and the overrides that all of them have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "experiment": path.stem.removesuffix(f"-{scale}"),
        "scale": scale,
        "overrides": list(overrides),
        "jobs": [asdict(job) for job in planned],
    }
    write_atomically(path, json.dumps(document, indent=1) + "\n")


def read_manifest(path: Path) -> list[Planned]:
    """Read the jobs of an earlier sweep; empty if there was none.

    Raises:
        UserError: The file was not written by a sweep.
    """
    return [] if not path.is_file() else _read(path)[0]


def read_overrides(path: Path) -> list[str]:
    """Read the overrides that all jobs of an earlier sweep have; empty if there was none.

    Raises:
        UserError: The file was not written by a sweep.
    """
    return [] if not path.is_file() else _read(path)[1]


def _read(path: Path) -> tuple[list[Planned], list[str]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return [_planned(job) for job in document["jobs"]], [
            str(item) for item in document.get("overrides", [])
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not written by sdst sweep ({error}); remove it") from error


def _planned(job: dict[str, Any]) -> Planned:
    """Check a job of a manifest, because its identity becomes part of paths."""
    planned = Planned(**job)
    named = isinstance(planned.row, str) and isinstance(planned.dataset, str)
    identified = planned.identity is None or re.fullmatch(r"[0-9a-f]{12}", planned.identity)
    if not named or type(planned.seed) is not int or not identified:
        raise ValueError(f"not a job: {job}")
    return planned
