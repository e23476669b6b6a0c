"""Learning curves of a run, from its CSV log."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CURVE_DIGITS = 5
"""Significant digits of a learning curve's values."""


@dataclass(frozen=True)
class Curve:
    """Values of a logged quantity and the number of training steps after which each was logged."""

    steps: list[int]
    values: list[float]


def read_curves(folder: Path, epochs: int) -> dict[str, Curve]:
    """All quantities in a run's CSV log; empty if the run has no CSV log.

    A resumed run has one file per start. If several files have the same step, the last one counts.

    Args:
        folder: Run folder.
        epochs: Number of trained epochs.
    """
    points: dict[str, dict[int, float]] = {}
    for step, row in read_rows(folder):
        # Rows after the last epoch evaluate the best checkpoint when training is over.
        if row["epoch"] >= epochs:
            continue
        for quantity in row.keys() - {"epoch"}:
            if math.isfinite(row[quantity]):
                points.setdefault(quantity, {})[step + 1] = row[quantity]
    return {
        quantity: Curve(sorted(values), [_shorten(values[step]) for step in sorted(values)])
        for quantity, values in sorted(points.items())
        if values
    }


def selected_curve(folder: Path, metrics: Mapping[str, Any]) -> list[float] | None:
    """The metric that chose the checkpoint of a finished run, after each epoch; None without a CSV log.

    Args:
        folder: Run folder.
        metrics: Content of its metrics.json.
    """
    selected = metrics["selected"]
    curve = read_curves(folder, metrics["epochs"]).get(f"{selected['split']}/{selected['metric']}")
    return None if curve is None else curve.values


def read_rows(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """The rows of a run's CSV log in logged order: the training step, counted from 0, and the values logged with it."""
    paths = RunFolder(folder).csv_path.glob("version_*/metrics.csv")
    for path in sorted(paths, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            for line in lines:  # without DictReader, which is twice as slow where most cells are empty
                row = {key: float(text) for key, text in zip(header, line, strict=False) if text}
                if "step" in row and "epoch" in row:  # a killed run may have written half of its last row
                    yield int(row.pop("step")), row


def _shorten(value: float) -> float:
    return float(f"{value:.{CURVE_DIGITS}g}")
