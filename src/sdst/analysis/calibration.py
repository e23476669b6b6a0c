"""Whether a score means what it says: of moments with score 0.7, seven in ten should be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdst.metrics.error_kinds import RIGHT_IOU
from sdst.metrics.moment import MAX_PREDICTIONS
from sdst.spans import pairwise_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Predicted moments with a score from ``low`` to below ``high``; the last bin has score 1 too.

    Attributes:
        low: Lower end.
        high: Upper end.
        num_moments: How many; the rest is None without any.
        mean_score: Of them.
        share_right: Of them, have IoU ≥ 0.5 with a true moment.
    """

    low: float
    high: float
    num_moments: int
    mean_score: float | None
    share_right: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """The reliability curve, and the expected calibration error.

    Attributes:
        num_moments: Predicted ones.
        mean_score: Of all; above ``share_right`` the scores are too confident.
        share_right: Of all.
        error: Mean distance of ``mean_score`` from ``share_right`` over the bins, weighted by their size.
        bins: Of equal width.
    """

    num_moments: int
    mean_score: float
    share_right: float
    error: float
    bins: tuple[Bin, ...]


def calibrate(
    windows: Sequence[NDArray[np.float64]],
    moments: Sequence[NDArray[np.float64]],
    count: int = MAX_PREDICTIONS,
) -> Calibration | None:
    """Calibration of each query's first ``count`` predictions as P(IoU ≥ 0.5 with any true moment | score).

    Several predictions may be right about the same moment.

    Args:
        windows: Per query (N, 3) predicted start, end, score.
        moments: Per query (G, 2) true start and end, G > 0.
        count: How many predictions of a query.

    Returns:
        None where nothing is predicted, or where a score is no probability: below 0 or above 1.
    """
    shown = [predicted[:count] for predicted in windows]
    scores = np.concatenate([predicted[:, 2] for predicted in shown])
    if not len(scores) or (scores < 0).any() or (scores > 1).any():
        return None
    best_iou = [
        pairwise_iou(predicted[:, :2], spans).max(axis=1)
        for predicted, spans in zip(shown, moments, strict=True)
    ]
    is_right = np.concatenate(best_iou) >= RIGHT_IOU
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    place = np.minimum(np.searchsorted(edges, scores, side="right") - 1, NUM_BINS - 1)
    sizes = np.bincount(place, minlength=NUM_BINS)
    score_sums = np.bincount(place, scores, minlength=NUM_BINS)
    num_right = np.bincount(place, is_right, minlength=NUM_BINS)
    bins = [
        Bin(
            float(low),
            float(high),
            int(size),
            *((float(s / size), float(r / size)) if size else (None, None)),
        )
        for low, high, size, s, r in zip(edges, edges[1:], sizes, score_sums, num_right, strict=False)
    ]
    error = float(np.abs(score_sums - num_right).sum() / len(scores))
    return Calibration(len(scores), float(scores.mean()), float(is_right.mean()), error, tuple(bins))
