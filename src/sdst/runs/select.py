"""Which runs of a list are shown, and in which order."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.runs.listing import FIXED, STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sdst.runs.listing import ListedRun

NUMBERS: Mapping[str, Callable[[ListedRun], float | None]] = {
    "selected": lambda run: run.selected,
    "test": lambda run: run.test,
    "size": lambda run: run.size,
    "age": lambda run: run.changed,
}
"""Keys that sort by a number, the largest (of ages the newest) first."""


def matching(runs: Iterable[ListedRun], filters: Sequence[str]) -> list[ListedRun]:
    """The runs that fit all filters.

    Args:
        runs: Runs.
        filters: ``KEY=VALUE``, or ``KEY=A,B`` for either. The key is ``state``, or an option or group of the
            configuration. Numbers are equal however they are written.

    Raises:
        UserError: No run has the key, or a state does not exist.
    """
    runs = list(runs)
    for text in filters:
        key, _, values = text.partition("=")
        wanted = [values, *values.split(",")]
        if key == "state":
            if unknown := next((value for value in wanted[1:] if value not in STATES), None):
                raise UserError(f"unknown state '{unknown}'; choose from {', '.join(STATES)}")
        else:
            _require(key, runs, ("state",))
    for text in filters:
        key, _, values = text.partition("=")
        wanted = [values, *values.split(",")]
        runs = [run for run in runs if any(_is_equal(_text(run, key), value) for value in wanted)]
    return runs


def ordered(runs: Sequence[ListedRun], key: str, *, reverse: bool = False) -> list[ListedRun]:
    """The runs sorted by a key, those without a value last.

    Args:
        runs: Runs.
        key: ``age``, ``size``, ``selected``, ``test`` or a metric: the largest or newest first. ``path``, ``state``,
            or an option or group: ascending.
        reverse: Sort the other way round.

    Raises:
        UserError: No run has the key.
    """
    number = NUMBERS.get(key) or _metric(runs, key)
    if number is not None:
        present = [run for run in runs if number(run) is not None]
        absent = [run for run in runs if number(run) is None]
        return sorted(present, key=lambda run: number(run) or 0.0, reverse=not reverse) + absent
    if key == "path":
        return sorted(runs, key=lambda run: str(run.path), reverse=reverse)
    if key != "state":
        _require(key, runs, (*NUMBERS, "path", "state"))
    present = [run for run in runs if _text(run, key)]
    absent = [run for run in runs if not _text(run, key)]
    return sorted(present, key=lambda run: _order(_text(run, key)), reverse=reverse) + absent


def _metric(runs: Sequence[ListedRun], key: str) -> Callable[[ListedRun], float | None] | None:
    """The values of a metric such as ``test MR-full-mAP``; without a split, on the one that selected the checkpoint."""

    def value(run: ListedRun) -> float | None:
        metrics = run.row.metrics or {}
        return metrics.get(key, metrics.get(f"{run.row.split} {key}"))

    return value if any(value(run) is not None for run in runs) else None


def _text(run: ListedRun, key: str) -> str:
    return run.row.state if key == "state" else run.value(key)


def _require(key: str, runs: Sequence[ListedRun], further: Sequence[str]) -> None:
    known = dict.fromkeys(
        (*further, *FIXED, *(name for run in runs for name in (*run.row.words, *run.options)))
    )
    if key in known or not runs:
        return
    close = difflib.get_close_matches(key, known, n=1)
    suggestion = (
        f"did you mean '{close[0]}'?" if close else f"choose {', '.join((*further, *FIXED))}, or an option"
    )
    raise UserError(f"no run has '{key}'; {suggestion}")


def _is_equal(value: str, wanted: str) -> bool:
    if value == wanted:
        return True
    try:
        return math.isclose(float(value), float(wanted), rel_tol=1e-9)
    except ValueError:
        return False


def _order(text: str) -> tuple[bool, float, str]:
    """Numbers by size, before texts."""
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, text
