"""Calibration of scores: of the moments predicted with score 0.7, seven in ten should be correct."""

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
    """Predicted moments with a score in [low, high); the last bin includes score 1.

    Attributes:
        low: Lower end of the bin.
        high: Upper end of the bin.
        num_moments: Number of predicted moments in the bin.
        mean_score: Mean score of these moments; None if there are none.
        share_right: Share of these moments with IoU ≥ 0.5 with a true moment; None if there are none.
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
        num_moments: Number of predicted moments.
        mean_score: Mean score of all predicted moments; if above ``share_right``, scores are overconfident.
        share_right: Share of all predicted moments with IoU ≥ 0.5 with a true moment.
        error: Mean distance of ``mean_score`` from ``share_right`` over the bins, weighted by their size.
        bins: Bins of equal width that cover [0, 1].
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

    Several predictions may match the same true moment.

    Args:
        windows: Per query (N, 3) predicted start, end, score.
        moments: Per query (G, 2) true start and end, G > 0.
        count: Number of predictions considered per query.

    Returns:
        The calibration; None if nothing is predicted, or if a score is outside [0, 1].
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
