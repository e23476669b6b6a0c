"""Reading a finished run folder: metrics, facts, configuration and predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from sdst.training.curves import Curve
    from sdst.types import Prediction, Qid


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


def selected_step(run: FinishedRun, curves: dict[str, Curve]) -> int | None:
    """Training step of the best checkpoint; None if its metric has no learning curve."""
    selected = run.metrics["selected"]
    curve = curves.get(f"{selected['split']}/{selected['metric']}")
    return None if curve is None else curve.steps[curve.values.index(max(curve.values))]
