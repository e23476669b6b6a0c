"""The run folders below a place."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FROZEN = re.compile(r"([0-9a-f]{12})\.yaml")
"""Configuration of a job that a sweep has launched, beside the job's folder."""


def runs_folder() -> Path:
    """The folder of all runs."""
    return Path(os.environ.get("SDST_RUNS", "runs"))


def find_runs(places: Sequence[Path], *, unusable: bool = False) -> list[Path]:
    """Run folders among and below the given folders, sorted by place and path.

    Each run counts once, also if links lead to it; its own folder comes before links.

    Args:
        places: Folders.
        unusable: Also list jobs that have not started and run folders without a configuration.

    Raises:
        UserError: A folder does not exist, or has no run.
    """
    found: dict[str, tuple[bool, Path]] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; give run folders, or folders of them")
        paths = list(_search(str(place), unusable, set()))
        if not paths:
            raise UserError(
                f"{place}: no run here; give run folders, or folders of them such as a multirun's"
            )
        for path in paths:
            real, is_link = os.path.realpath(path), os.path.islink(path)
            if real not in found or (found[real][0] and not is_link):
                found[real] = (is_link, Path(path))
    return [path for _, path in found.values()]


def _search(folder: str, unusable: bool, seen: set[str]) -> Iterator[str]:
    """Run folders among and below a folder, sorted by path; folders that cannot be read are skipped."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    names = {entry.name for entry in entries}
    run = RunFolder(folder)
    marks = {run.config_path.name} | ({run.facts_path.name, run.metrics_path.name} if unusable else set())
    if names & marks:
        yield folder
        return
    seen.add(real)
    for entry in entries:
        if entry.is_dir():
            yield from _search(entry.path, unusable, seen)
        elif unusable and (job := FROZEN.fullmatch(entry.name)):
            name = os.path.join(folder, job[1])
            if not RunFolder(name).is_begun:
                yield name
