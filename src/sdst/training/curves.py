"""Learning curves of a run, from its CSV log."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
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
    paths = RunFolder(folder).csv_path.glob("version_*/metrics.csv")
    for path in sorted(paths, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            epoch, step = (header.index(name) if header else 0 for name in ("epoch", "step"))
            columns = [points.setdefault(quantity, {}) for quantity in header]
            for row in rows:
                # Rows after the last epoch evaluate the best checkpoint when training is over.
                if int(row[epoch]) >= epochs:
                    continue
                place = int(row[step]) + 1
                for column, text in enumerate(row):
                    # Most cells are empty: a row has the quantities that are logged together.
                    if text and column not in (epoch, step) and math.isfinite(value := float(text)):
                        columns[column][place] = value
    return {
        quantity: Curve(sorted(values), [_shorten(values[step]) for step in sorted(values)])
        for quantity, values in sorted(points.items())
        if values
    }


def _shorten(value: float) -> float:
    return float(f"{value:.{CURVE_DIGITS}g}")
