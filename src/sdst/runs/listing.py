"""What a list shows of each run, read from the small files of its folder; for a damaged folder, the reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdst.config.words import flatten, stored_words
from sdst.errors import UserError
from sdst.files.yaml import read_yaml
from sdst.runs.find import find_runs
from sdst.runs.row import RunRow, of_finished
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATES = ("finished", "running", "interrupted", "failed", "not-started", "damaged")
FIXED = ("data", "model", "seed")
"""Options that have a column of their own."""

ELSEWHERE = ("data.features", "data.annotations")
"""Options that say where files lie; not compared."""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One run of a list.

    Attributes:
        path: Run folder; it may not exist.
        row: What it is, its state (one of :data:`STATES`), its metrics, and the reason of a failure.
        options: Option -> value of its whole configuration; empty if it cannot be read.
        changed: Time of the last change of any of its files, in seconds since 1970.
        size: Bytes of its files.
    """

    path: Path
    row: RunRow
    options: Mapping[str, str]
    changed: float
    size: int

    @property
    def selected(self) -> float | None:
        """The metric that selected the checkpoint, at the checkpoint."""
        return (self.row.metrics or {}).get(f"{self.row.split} {self.row.metric}")

    @property
    def test(self) -> float | None:
        """The same metric on the test split."""
        return (self.row.metrics or {}).get(f"test {self.row.metric}")

    def value(self, option: str) -> str:
        """Choice of a group or value of an option; "" if the run has none."""
        return self.row.words.get(option, self.options.get(option, ""))


def list_runs(places: Sequence[Path]) -> list[ListedRun]:
    """All runs and jobs among and below the given folders, in the order of their places and paths.

    Raises:
        UserError: A folder does not exist, or has no run.
    """
    return [listed(path) for path in find_runs(places, unusable=True)]


def differences(runs: Sequence[ListedRun]) -> list[str]:
    """Data set, model, options given to any of the runs, and seed, as far as the runs differ in them.

    A run that lacks an option, because it is older or its model has none, does not differ in it.
    """
    given = dict.fromkeys(("data", "model", *(option for run in runs for option in run.row.words)))
    given.pop("seed", None)
    return [
        option
        for option in (*given, "seed")
        if not option.startswith(ELSEWHERE) and len({run.value(option) for run in runs} - {""}) > 1
    ]


def with_differences(runs: Sequence[ListedRun]) -> list[RunRow]:
    """The rows of finished runs, in the words in which all given runs differ."""
    options = differences(runs)
    return [
        replace(run.row, words={option: run.value(option) for option in options})
        for run in runs
        if run.row.metrics is not None
    ]


def listed(path: Path) -> ListedRun:
    """Read a run folder, also a damaged one."""
    run = RunFolder(path)
    size, changed = _measure(run)
    try:
        options = flatten(_config(run))
        said = _words(run, options)
    except UserError as error:
        return ListedRun(path, _damaged(path, {}, error), {}, changed, size)
    try:
        row = of_finished(run.path, said) if run.is_finished else _unfinished(run, said)
    except UserError as error:
        row = _damaged(path, said, error)
    return ListedRun(path, replace(row, folder=path), options, changed, size)


def _damaged(path: Path, said: Mapping[str, str], error: UserError) -> RunRow:
    return RunRow(said, "damaged", reason=str(error).removeprefix(f"{path}{os.sep}"))


def _config(run: RunFolder) -> dict[str, Any]:
    """The run's configuration, or the frozen one of a job that has not started and so has no other."""
    frozen = run.path.with_name(f"{run.path.name}.yaml")
    if run.is_begun or not frozen.is_file():
        return run.plain_config()
    return read_yaml(frozen)


def _words(run: RunFolder, options: Mapping[str, str]) -> dict[str, str]:
    """The run's data set, model and seed, with its choices and overrides if it stored them."""
    facts = run.facts()
    choices, overrides = facts.get("choices"), facts.get("overrides")
    said = {
        "data": options.get("data.name", ""),
        "model": options.get("model._target_", "").rpartition(".")[2].lower(),
        "seed": options.get("seed", ""),
    }
    if isinstance(choices, dict) and isinstance(overrides, list):
        said |= stored_words(choices, map(str, overrides))
    return said


def _unfinished(run: RunFolder, said: Mapping[str, str]) -> RunRow:
    if run.is_running:
        return RunRow(said, "running")
    if run.failed_path.is_file():
        return RunRow(said, "failed", reason=run.failure())
    return RunRow(said, "interrupted" if run.is_begun else "not-started")


def _measure(run: RunFolder) -> tuple[int, float]:
    """Bytes of a run's files, and the time of the last change; links count as themselves."""
    size, changed = 0, 0.0
    if not run.is_begun:  # a job that has not started has only its frozen configuration
        for path in (run.path, run.path.with_name(f"{run.path.name}.yaml")):
            if path.exists():
                changed = max(changed, path.stat().st_mtime)
    folders = [str(run.path)]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
                continue
            status = entry.stat(follow_symlinks=False)
            size, changed = size + status.st_size, max(changed, status.st_mtime)
    return size, changed
