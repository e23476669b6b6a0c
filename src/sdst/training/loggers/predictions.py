"""Plots and a table of some predictions, shown in the wandb run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.metrics.moment import top1_iou
from sdst.plotting.predictions import SHOWN_MOMENTS, plot_predictions
from sdst.training.loggers.wandb import WandbTracker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch.loggers import Logger

    from sdst.types import Prediction, Record

SHOWN_QUERIES = 6
"""Number of queries that a run shows as plots and in its table."""
TABLE = ("qid", "video", "query", "true moments [s]", "best predictions [s] (score)", "IoU of the best")


def show_predictions(
    loggers: Sequence[Logger],
    split: str,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    clip_seconds: float,
    note: str = "",
) -> None:
    """Show some queries of a labelled split in the wandb run, if there is one: a plot each, and a table.

    Args:
        loggers: Loggers of the trainer.
        split: Name of the split.
        predictions: Predictions of the whole split, in any order.
        records: Annotations of the split; the shown queries are spread evenly over them.
        clip_seconds: Length of a clip.
        note: Line above each plot.
    """
    shown_in = [tracker for tracker in loggers if isinstance(tracker, WandbTracker)]
    if not shown_in:
        return
    import wandb

    by_qid = {prediction.qid: prediction for prediction in predictions}
    shown = [records[index * len(records) // SHOWN_QUERIES] for index in range(SHOWN_QUERIES)]
    shown = list(dict.fromkeys(shown))  # a split may have fewer queries
    with tempfile.TemporaryDirectory() as folder:
        plots = []
        for index, record in enumerate(shown):
            path = Path(folder, f"{index}.png")
            plot_predictions([by_qid[record.qid]], [record], path, clip_seconds, note)
            plots.append(wandb.Image(str(path), caption=f"{record.qid}: {record.query}"))
        table = wandb.Table(columns=list(TABLE), data=[_row(by_qid[record.qid], record) for record in shown])
        # Within the block: wandb copies the pictures when they are logged.
        for tracker in shown_in:
            tracker.log_shown({f"{split}/plots": plots, f"{split}/predictions": table})


def _row(prediction: Prediction, record: Record) -> list[str | float | None]:
    moments = [] if record.windows is None else record.windows.tolist()
    true = ", ".join(f"{start:g}-{end:g}" for start, end in moments)
    best = prediction.windows[:SHOWN_MOMENTS].tolist()
    predicted = ", ".join(f"{start:.1f}-{end:.1f} ({score:.2f})" for start, end, score in best)
    iou = None
    if record.windows is not None:
        iou = round(float(top1_iou([prediction.windows], [record.windows])[0]), 3)
    return [str(record.qid), record.vid, record.query, true, predicted, iou]
