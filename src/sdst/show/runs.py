"""Reading a finished run folder: metrics, facts, configuration, learning curves and predictions."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from sdst.types import Prediction, Qid

CURVE_DIGITS = 5
"""Significant digits of a learning curve's values."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        folder: Run folder.
        name: Name of the run on the page.
        metrics: Content of metrics.json.
        facts: Content of run.json.
        config: Content of config.yaml.
    """

    folder: Path
    name: str
    metrics: dict[str, Any]
    facts: dict[str, Any]
    config: DictConfig

    def predictions(self, split: str) -> dict[Qid, Prediction]:
        """Predictions on a split by qid.

        Raises:
            UserError: The run has no predictions on this split.
        """
        predictions = RunFolder(self.folder).predictions(split)
        return {prediction.qid: prediction for prediction in predictions}


@dataclass(frozen=True)
class Curve:
    """Values of a logged quantity and the number of training steps after which each was logged."""

    steps: list[int]
    values: list[float]


def read_run(folder: Path, name: str) -> FinishedRun:
    """Read a run folder.

    Raises:
        UserError: The folder is not a finished run, or one of its files is damaged.
    """
    files = RunFolder(folder)
    return FinishedRun(
        folder,
        name,
        metrics=files.metrics(),
        facts=files.facts(),
        config=files.config(),
    )


def read_curves(run: FinishedRun) -> dict[str, Curve]:
    """All quantities in the run's CSV log; empty if the run has no CSV log.

    A resumed run has one file per start. If several files have the same step, the last one counts.
    """
    points: dict[str, dict[int, float]] = {}
    paths = RunFolder(run.folder).csv_path.glob("version_*/metrics.csv")
    for path in sorted(paths, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                # Rows after the last epoch evaluate the best checkpoint when training is over.
                if int(row["epoch"]) >= run.metrics["epochs"]:
                    continue
                for quantity in row.keys() - {"epoch", "step"}:
                    if row[quantity] and math.isfinite(value := float(row[quantity])):
                        points.setdefault(quantity, {})[int(row["step"]) + 1] = value
    return {
        quantity: Curve(sorted(values), [_shorten(values[step]) for step in sorted(values)])
        for quantity, values in sorted(points.items())
    }


def selected_step(run: FinishedRun, curves: dict[str, Curve]) -> int | None:
    """Training step of the best checkpoint; None if its metric has no learning curve."""
    selected = run.metrics["selected"]
    curve = curves.get(f"{selected['split']}/{selected['metric']}")
    return None if curve is None else curve.steps[curve.values.index(max(curve.values))]


def _shorten(value: float) -> float:
    return float(f"{value:.{CURVE_DIGITS}g}")
