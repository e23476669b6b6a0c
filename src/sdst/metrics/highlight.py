"""Highlight detection metrics: mAP and Hit@1 over saliency, as the QVHighlights evaluation defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RATINGS = {"Fair": 2, "Good": 3, "VeryGood": 4}
"""Rating, as in the official keys -> lowest annotator score that makes a clip a highlight."""
BLOCK = 128
"""Queries per block: the arrays of a block fit in the cache, which halves the time for 1,550 queries."""


def highlight_metrics(
    saliency: Sequence[NDArray[np.float64]], clip_scores: Sequence[NDArray[np.int64]]
) -> dict[str, dict[str, float]]:
    """Compute both metrics at every rating, in percent.

    Args:
        saliency: (T,) predicted scores of the clips per query; T > 0 may differ from the true number of clips.
        clip_scores: (C, 3) scores 0-4 of the three annotators per query.

    Returns:
        ``{"HL-min-Fair": {"HL-mAP": ..., "HL-Hit1": ...}, ...}``, not rounded.
    """
    best = top1_score(saliency, clip_scores)
    precisions = average_precision(saliency, clip_scores)
    return {
        f"HL-min-{name}": {
            "HL-mAP": 100 * float(precisions[name].mean()),
            "HL-Hit1": 100 * float((best >= rating).mean()),
        }
        for name, rating in RATINGS.items()
    }


def top1_score(
    saliency: Sequence[NDArray[np.float64]], clip_scores: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return the (Q,) highest annotator score of each query's first most salient clip; 0 if it is beyond the video."""
    best = np.zeros(len(saliency), dtype=np.int64)
    for query, (predicted, scores) in enumerate(zip(saliency, clip_scores, strict=True)):
        clip = predicted.argmax()
        if clip < len(scores):
            best[query] = scores[clip].max()
    return best


def average_precision(
    saliency: Sequence[NDArray[np.float64]], clip_scores: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[np.float64]]:
    """Return the (Q, 3) average precision per query and annotator at every rating; 0 if no clip has the rating.

    It is the plain mean of the interpolated precision over the operating points at which recall grows;
    equally salient clips share one point. Saliency beyond the video is cut off and missing saliency is 0.
    """
    blocks = [
        _block_precision(saliency[first : first + BLOCK], clip_scores[first : first + BLOCK])
        for first in range(0, len(saliency), BLOCK)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in RATINGS}


def _block_precision(
    saliency: Sequence[NDArray[np.float64]], clip_scores: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[np.float64]]:
    predicted, true = _pad(saliency, clip_scores)
    by_saliency = np.argsort(-predicted, axis=1, kind="stable")
    predicted = np.take_along_axis(predicted, by_saliency, axis=1)
    true = np.take_along_axis(true, by_saliency[:, None], axis=2)
    is_point = predicted > np.pad(predicted[:, 1:], ((0, 0), (0, 1)), constant_values=-np.inf)
    return {name: _mean_precision(true >= rating, is_point[:, None]) for name, rating in RATINGS.items()}


def _pad(
    saliency: Sequence[NDArray[np.float64]], clip_scores: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return (Q, C) saliency, -inf after the video's end, and (Q, 3, C) annotator scores, 0 there."""
    num_clips = max(len(scores) for scores in clip_scores)
    predicted = np.full((len(saliency), num_clips), -np.inf)
    true = np.zeros((len(saliency), 3, num_clips), dtype=np.int8)
    for query, (values, scores) in enumerate(zip(saliency, clip_scores, strict=True)):
        values = values[: len(scores)]
        predicted[query, : len(scores)] = 0
        predicted[query, : len(values)] = values
        true[query, :, : len(scores)] = scores.T
    return predicted, true


def _mean_precision(positive: NDArray[np.bool_], is_point: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (Q, 3) from (Q, 3, C) labels in order of falling saliency; ``is_point`` marks the last of equal clips."""
    num_found = positive.cumsum(axis=2, dtype=np.int32)
    precision = np.where(is_point, num_found / np.arange(1, positive.shape[2] + 1), 0)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    # Between two operating points the number found is that of the earlier point.
    found_at_point = np.maximum.accumulate(np.where(is_point, num_found, 0), axis=2)
    grows = np.diff(found_at_point, axis=2, prepend=0) > 0
    mean: NDArray[np.float64] = (envelope * grows).sum(axis=2) / np.maximum(grows.sum(axis=2), 1)
    return mean
