"""Predictions of an evaluation epoch, keyed by qid: a torchmetrics ``Metric`` around the NumPy evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torchmetrics import Metric

from sdst.metrics.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.types import Prediction, Qid, Record


class PredictionCollector(Metric):
    """Collects predictions and their annotations, and evaluates them once per epoch.

    Rows are Python objects of different sizes, so ``compute`` gathers them from all ranks as objects, not as tensor
    states. A query that several ranks saw counts once.

    Args:
        dataset: Dataset whose metrics are computed, a key of ``PROTOCOLS``.
    """

    full_state_update = False

    def __init__(self, dataset: str) -> None:
        super().__init__()
        self.dataset = dataset
        self.rows: dict[Qid, tuple[Prediction, Record]] = {}

    def update(self, predictions: Sequence[Prediction], records: Sequence[Record]) -> None:
        """Add one batch: a prediction and its annotation per query."""
        for prediction, record in zip(predictions, records, strict=True):
            self.rows[record.qid] = (prediction, record)

    def gather(self) -> tuple[list[Prediction], list[Record]]:
        """Return predictions and annotations of all ranks, in an order that does not depend on the number of ranks."""
        rows = self.rows
        if dist.is_available() and dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, rows)
            rows = {qid: row for part in gathered for qid, row in part.items()}
        ordered = [rows[qid] for qid in sorted(rows, key=str)]
        return [prediction for prediction, _ in ordered], [record for _, record in ordered]

    def compute(self) -> dict[str, Any]:
        """Evaluate the rows of all ranks; {} if there are no rows, or if an annotation has no labels."""
        predictions, records = self.gather()
        if not records or not all(record.is_labelled for record in records):
            return {}
        return evaluate(predictions, records, self.dataset)

    def reset(self) -> None:
        """Forget all rows."""
        super().reset()
        self.rows = {}
