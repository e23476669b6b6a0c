"""The page of many runs: a table to sort and filter, groups over seeds, curves, and wins and losses by query.

Reads only the small files of each run, and predictions only if at most :data:`MOST_COMPARED` runs are finished.
"""

from __future__ import annotations

import math
import os
import sys
from datetime import datetime
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.files.text import encodable
from sdst.runs.listing import FIXED, ListedRun, differences, list_runs, with_differences
from sdst.runs.table import short, shown
from sdst.show.embedded import csp_hash, embed, page_file
from sdst.show.tables import seeds_section, wins_section
from sdst.show.wins import compare
from sdst.training.curves import Curve, read_curves
from sdst.training.run_folder import RunFolder
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.show.wins import Wins
    from sdst.types import Prediction, Qid

SCRIPTS = ("elements.js", "charts.js", "runs.js")
"""Scripts in the order of their dependencies."""
MOST_COMPARED = 40
"""Most runs whose predictions are read, because those of a large split take a second each."""
MOST_POINTS = 80
"""Most points of a curve; of more, every nth is kept, and the last."""
LONGEST = 60
"""Most characters of a run's label."""
COLOURS = 8
"""Colours of runs in page.css."""
PAGE = "show.html"
"""The page of one run, in its folder."""


def show_collection(
    places: Sequence[Path],
    out: Path | None = None,
    *,
    split: str | None = None,
    annotations: Path | None = None,
) -> Path:
    """Write the page of all runs among and below some folders.

    Args:
        places: Run folders, checkpoints in them, or folders of runs. The first finished run is the one that the others
            are compared with query by query.
        out: HTML file to write; by default index.html in the first folder, or show-all.html if that is a run's.
        split: Split of the comparison by query; by default the one that selected the first run's checkpoint.
        annotations: Annotation file of the split; by default the one in the first run's configuration.

    Returns:
        Path of the page.

    Raises:
        UserError: A folder does not exist or has no run, or the page cannot be written.
    """
    places = [RunFolder.of(place).path for place in places]
    runs = list_runs(places)
    root = Path(os.path.commonpath([os.path.abspath(run.path) for run in runs]))
    if len(runs) == 1:
        root = root.parent
    out = out or places[0] / ("show-all.html" if RunFolder(places[0]).is_begun else "index.html")
    title = Path(os.path.abspath(places[0])).name if len(places) == 1 else root.name
    names = {run.path: os.path.relpath(os.path.abspath(run.path), root) for run in runs}
    finished = [run for run in runs if run.row.metrics is not None]
    options = differences(runs)
    labels = _labels(runs, names, options)
    wins, notes = _wins(finished, labels, split, annotations)
    metrics, selecting = _metrics(finished)
    base = out.resolve().parent
    data: dict[str, Any] = {
        "columns": [
            *("run", "state", *map(short, metrics[:selecting]), *options),
            *(*map(short, metrics[selecting:]), "changed", "MB"),
        ],
        "filters": [*options, "state"],
        "runs": [
            _describe(run, names[run.path], labels[run.path], options, metrics, selecting, base)
            for run in runs
        ],
    }
    colours = {name: index for index, name in enumerate(dict.fromkeys(run["group"] for run in data["runs"]))}
    for run in data["runs"]:
        run["colour"] = colours[run.pop("group")] % COLOURS
    write_atomically(out, encodable(_render(title, runs, data, wins, notes)))
    return out


def _metrics(finished: Sequence[ListedRun]) -> tuple[list[str], int]:
    """The metrics of the table, and how many of them come first: what selected checkpoints, and the same on test."""
    rows = [run.row for run in finished]
    selecting = dict.fromkeys(f"{split} {row.metric}" for row in rows for split in (row.split, "test"))
    first = [name for name in selecting if any(name in (row.metrics or {}) for row in rows)]
    return list(dict.fromkeys((*first, *shown(rows)))), len(first)


def _describe(
    run: ListedRun,
    name: str,
    label: str,
    options: Sequence[str],
    metrics: Sequence[str],
    selecting: int,
    base: Path,
) -> dict[str, Any]:
    """Data of a run for the page's scripts. A cell is its text and, if it sorts by a number, the number."""
    row = run.row
    values = [_finite((row.metrics or {}).get(metric)) for metric in metrics]
    numbers = [["" if value is None else f"{value:.2f}", value] for value in values]
    curves = _curves(run)
    page = run.path / PAGE
    return {
        "name": label,
        "link": quote(os.fsencode(os.path.relpath(page.resolve(), base))) if page.is_file() else None,
        "group": " ".join(run.value(option) for option in options if option != "seed"),
        "reason": row.reason,
        "cells": [
            [name],
            [row.state],
            *numbers[:selecting],
            *([run.value(option)] for option in options),
            *numbers[selecting:],
            [datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M"), run.changed],  # local time
            [f"{run.size / 1e6:.1f}", run.size],
        ],
        "metric": _selection(run),
        "selected_step": None,
        "curves": {key: [curve.steps, curve.values] for key, curve in curves.items()},
    }


def _curves(run: ListedRun) -> dict[str, Curve]:
    """Losses and selection metric of a run, thinned; empty without a readable log."""
    try:
        is_finished = run.row.metrics is not None
        epochs = RunFolder(run.path).metrics()["epochs"] if is_finished else sys.maxsize
        curves = read_curves(run.path, epochs)
    except (UserError, OSError, ValueError, IndexError):
        return {}
    metric = _selection(run)
    names = ("train/loss", f"{metric.split('/')[0]}/loss", metric)
    return {name: _thinned(curves[name]) for name in names if name in curves}


def _selection(run: ListedRun) -> str:
    """Logged name of the metric that selects the checkpoint."""
    split, metric = run.row.split or run.value("select.split"), run.row.metric or run.value("select.metric")
    return f"{split}/{metric}"


def _thinned(curve: Curve) -> Curve:
    every = math.ceil(len(curve.steps) / MOST_POINTS)
    kept = sorted({*range(0, len(curve.steps), every), len(curve.steps) - 1})
    return Curve([curve.steps[index] for index in kept], [curve.values[index] for index in kept])


def _labels(runs: Sequence[ListedRun], names: Mapping[Path, str], options: Sequence[str]) -> dict[Path, str]:
    """What each run is called in curves: what differs, or its path if that is not short and unique."""
    told = [" ".join(f"{key}={value}" for key in options if (value := run.value(key))) for run in runs]
    if len(set(told)) < len(told) or max(map(len, told)) > LONGEST:
        told = [names[run.path] for run in runs]
    return {run.path: label for run, label in zip(runs, told, strict=True)}


def _wins(
    runs: Sequence[ListedRun], names: Mapping[Path, str], split: str | None, annotations: Path | None
) -> tuple[list[Wins], list[str]]:
    """Wins and losses against the first of several finished runs, and notes on those that cannot be compared."""
    if len(runs) < 2:
        return [], []
    if len(runs) > MOST_COMPARED:
        return [], [
            f"Wins and losses by query are left out: {len(runs)} finished runs, more than {MOST_COMPARED}."
        ]
    first = RunFolder(runs[0].path)
    split = split or runs[0].row.split
    try:
        records = read_annotations(annotations or first.annotations_path(split)).records
        first.require_predictions(split)
    except UserError as error:
        return [], [f"Wins and losses by query are not shown ({error})."]
    answers: dict[str, dict[Qid, Prediction]] = {}
    for run in runs:
        try:
            predictions = RunFolder(run.path).predictions(split)
        except UserError:
            predictions = []
        answers[names[run.path]] = {prediction.qid: prediction for prediction in predictions}
    wins = compare(records, answers)
    compared = {win.name for win in wins}
    others = [names[run.path] for run in runs[1:] if names[run.path] not in compared]
    note = f"Not compared by query with {names[runs[0].path]}, because no query on {split} is shared: "
    return wins, [f"{note}{', '.join(others)}."] * bool(others)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _render(
    title: str, runs: Sequence[ListedRun], data: dict[str, Any], wins: Sequence[Wins], notes: Sequence[str]
) -> str:
    style, script = page_file("page.css"), "\n".join(page_file(name) for name in SCRIPTS)
    states = [run.row.state for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lead = f"{len(runs)} run{'s' * (len(runs) != 1)}: {counts}."
    shared = [f"{key}={runs[0].value(key)}" for key in FIXED if len({run.value(key) for run in runs}) == 1]
    if any(run.row.features for run in runs):
        notes = ["Some runs have SIMULATED features: their numbers are meaningless.", *notes]
    first = next(
        (shown["name"] for run, shown in zip(runs, data["runs"], strict=True) if run.row.metrics), ""
    )
    return Template(page_file("collection.html")).substitute(
        title=escape(title),
        style=style,
        style_hash=csp_hash(style),
        script=script,
        script_hash=csp_hash(script),
        lead=f"<p>{escape(' '.join([lead, *(['All: ' + ', '.join(shared) + '.'] * bool(shared))]))}</p>",
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        groups=seeds_section(with_differences(runs)),
        wins=wins_section(wins, first),
        version=__version__,
        data=embed(data),
    )
