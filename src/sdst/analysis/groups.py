"""Moment retrieval by group: length, position and number of the true moments, and number of words in the query."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from sdst.metrics.evaluation import restrict, true_moments
from sdst.metrics.moment import average_precision, top1_iou

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sdst.types import Prediction, Record

    Bins = Mapping[str, tuple[float, float]]

THIRDS: Bins = {"first third": (0, 1 / 3), "middle third": (1 / 3, 2 / 3), "last third": (2 / 3, 1)}
COUNTS: Bins = {"1": (0, 1), "2": (1, 2), "3 to 5": (2, 5), "over 5": (5, inf)}
WORDS: Bins = {
    "up to 5": (0, 5),
    "6 to 10": (5, 10),
    "11 to 15": (10, 15),
    "16 to 20": (15, 20),
    "over 20": (20, inf),
}
"""Group -> exclusive lower and inclusive upper bound of its values."""


@dataclass(frozen=True, slots=True)
class GroupScores:
    """Moment retrieval in percent over ``num_queries`` queries with ``num_moments`` true moments."""

    num_queries: int
    num_moments: int
    r1_at_50: float
    r1_at_70: float
    mean_iou: float
    mean_ap: float


def measure(
    windows: Sequence[NDArray[np.float64]], moments: Sequence[NDArray[np.float64]]
) -> GroupScores | None:
    """R1@0.5, R1@0.7, mIoU and mAP as the official evaluation defines them; None if there are no queries.

    Args:
        windows: Per query (N, 3) predicted start, end, score.
        moments: Per query (G, 2) true start and end, G > 0.
    """
    if not moments:
        return None
    iou = top1_iou(windows, moments)
    shares = (iou >= 0.5).mean(), (iou >= 0.7).mean(), iou.mean(), average_precision(windows, moments).mean()
    return GroupScores(
        len(moments), sum(map(len, moments)), *(round(100 * float(share), 2) for share in shares)
    )


def measure_groups(
    predictions: Sequence[Prediction], records: Sequence[Record], lengths: Bins
) -> dict[str, dict[str, GroupScores | None]]:
    """Scores by grouping and group; None where a group has no queries.

    Groups consist of moments, as in the official evaluation: a query belongs to the group of each of its moments. There
    it keeps only the true moments of that group, but all predictions. In the last two groupings the value is the same
    for all moments of a query, so each query is in exactly one group, with all its moments.

    Args:
        predictions: Predictions in the order of the records.
        records: Labelled annotations.
        lengths: Length groups of the data set, in seconds.

    Raises:
        UserError: A record has no labels.
    """
    moments = true_moments(records)
    windows = [prediction.windows for prediction in predictions]
    counts = np.array([len(spans) for spans in moments])
    starts, ends = np.concatenate(moments).T
    duration = np.repeat([record.duration for record in records], counts)
    words = [len(record.query.split()) for record in records]
    values = {
        "length of the moment": (ends - starts, lengths),
        "middle of the moment in the video": ((starts + ends) / 2 / duration, THIRDS),
        "moments of the query": (np.repeat(counts, counts), COUNTS),
        "words of the query": (np.repeat(words, counts), WORDS),
    }
    return {
        grouping: {
            group: measure(*restrict(windows, moments, (value > low) & (value <= high)))
            for group, (low, high) in bins.items()
        }
        for grouping, (value, bins) in values.items()
    }
