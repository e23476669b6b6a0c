"""Wins and losses of runs, query by query, against the first of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdst.metrics.error_kinds import RIGHT_IOU
from sdst.metrics.moment import top1_iou

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.types import Prediction, Qid, Record


@dataclass(frozen=True, slots=True)
class Wins:
    """A run against the first one, by the IoU of their first predictions with the nearest true moment.

    Attributes:
        name: Name of the run.
        queries: Number of queries that both have.
        better: Queries where its IoU is higher.
        worse: Queries where its IoU is lower.
        gained: Queries that it alone has right, with an IoU of at least :data:`~sdst.metrics.error_kinds.RIGHT_IOU`.
        lost: Queries that the first run alone has right.
        difference: Mean IoU minus that of the first run, in percent.
    """

    name: str
    queries: int
    better: int
    worse: int
    gained: int
    lost: int
    difference: float

    @property
    def equal(self) -> int:
        """Queries with the same IoU."""
        return self.queries - self.better - self.worse


def compare(records: Sequence[Record], runs: Mapping[str, Mapping[Qid, Prediction]]) -> list[Wins]:
    """Compare every further run with the first one; a run that shares no labelled query with it is left out.

    Args:
        records: Annotated queries; those without moments do not count.
        runs: Name -> predictions by qid. A query is the same if qid, video and text are.
    """
    (_, first), *others = runs.items() or [("", {})]
    labelled = [record for record in records if record.windows is not None and len(record.windows)]
    wins = []
    for name, answers in others:
        shared = [record for record in labelled if _is_of(record, first) and _is_of(record, answers)]
        if shared:
            wins.append(_compare(name, shared, first, answers))
    return wins


def _compare(
    name: str, records: Sequence[Record], first: Mapping[Qid, Prediction], other: Mapping[Qid, Prediction]
) -> Wins:
    moments = [record.windows for record in records if record.windows is not None]
    before, after = (
        top1_iou([answers[record.qid].windows for record in records], moments) for answers in (first, other)
    )
    was_right, is_right = before >= RIGHT_IOU, after >= RIGHT_IOU
    return Wins(
        name,
        queries=len(records),
        better=int((after > before).sum()),
        worse=int((after < before).sum()),
        gained=int((is_right & ~was_right).sum()),
        lost=int((was_right & ~is_right).sum()),
        difference=100 * float(np.mean(after - before)),
    )


def _is_of(record: Record, answers: Mapping[Qid, Prediction]) -> bool:
    answer = answers.get(record.qid)
    return answer is not None and (answer.vid, answer.query) == (record.vid, record.query)
