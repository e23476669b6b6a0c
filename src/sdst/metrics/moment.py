"""Moment retrieval metrics: R1@IoU, mIoU and detection mAP, as the QVHighlights evaluation defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.spans import pairwise_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAP_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU thresholds of mAP. Divided, since sums of 0.05 miss 0.6 by a bit and lose the windows exactly on it."""

MAX_PREDICTIONS = 10
"""Only the first ten windows listed for a query are looked at."""


def moment_metrics(
    predictions: Sequence[NDArray[np.float64]],
    moments: Sequence[NDArray[np.float64]],
    recall_thresholds: Sequence[float] = MAP_THRESHOLDS,
) -> dict[str, Any]:
    """All moment retrieval metrics over some queries, in percent; None everywhere if there are no queries.

    Args:
        predictions: Per query (N, 3) start, end, score; N may be 0, a miss.
        moments: Per query (G, 2) true start and end, G > 0.
        recall_thresholds: The IoU thresholds of R1.

    Returns:
        ``{"MR-mAP": {"0.5": ..., "average": ...}, "MR-R1": {"0.5": ...}, "MR-mIoU": ...}``, not rounded.
    """
    map_names = [str(threshold) for threshold in MAP_THRESHOLDS] + ["average"]
    if not moments:
        nothing = dict.fromkeys(map(str, recall_thresholds))
        return {"MR-mAP": dict.fromkeys(map_names), "MR-R1": nothing, "MR-mIoU": None}
    mean_ap = 100 * average_precision(predictions, moments).mean(axis=0)
    iou = top1_iou(predictions, moments)
    return {
        "MR-mAP": dict(zip(map_names, [*mean_ap.tolist(), float(mean_ap.mean())], strict=True)),
        "MR-R1": {str(threshold): 100 * float((iou >= threshold).mean()) for threshold in recall_thresholds},
        "MR-mIoU": 100 * float(iou.mean()),
    }


def top1_iou(
    predictions: Sequence[NDArray[np.float64]], moments: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """(Q,) best IoU of each query's first listed window with any of its moments; 0 if nothing is listed."""
    first = np.array([windows[0, :2] if len(windows) else (0.0, 0.0) for windows in predictions])
    counts = [len(spans) for spans in moments]
    start, end = np.repeat(first, counts, axis=0).T
    true_start, true_end = np.concatenate(moments).T
    inter = (np.minimum(end, true_end) - np.maximum(start, true_start)).clip(min=0)
    # The hull equals the union wherever the intersection is not empty, and has one rounding error instead of
    # four; windows exactly on a threshold depend on it. It is never empty, as no true moment is.
    iou = inter / (np.maximum(end, true_end) - np.minimum(start, true_start))
    best: NDArray[np.float64] = np.maximum.reduceat(iou, np.cumsum([0, *counts[:-1]]))
    return best


def average_precision(
    predictions: Sequence[NDArray[np.float64]], moments: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """(Q, 10) area under each query's interpolated precision-recall curve at every ``MAP_THRESHOLDS``.

    The first ten listed windows compete in the order of their scores, equal scores in the order of the list.
    """
    ranked = _rank(predictions)
    counts = np.array([len(spans) for spans in moments])
    result = np.zeros((len(moments), len(MAP_THRESHOLDS)))
    for count in np.unique(counts):  # queries with equally many moments need no padding
        queries = np.flatnonzero(counts == count)
        hits = _match(pairwise_iou(ranked[queries], np.stack([moments[query] for query in queries.tolist()])))
        result[queries] = _area_under_curve(hits, num_moments=int(count))
    return result


def _rank(predictions: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(Q, 10, 2) windows by falling score; short lists end in empty windows: misses that cost nothing."""
    padded = np.zeros((len(predictions), MAX_PREDICTIONS, 3))
    padded[..., 2] = -np.inf
    for row, windows in zip(padded, predictions, strict=True):
        row[: len(windows)] = windows[:MAX_PREDICTIONS]
    by_score = np.argsort(-padded[..., 2], axis=1, kind="stable")
    return np.take_along_axis(padded[..., :2], by_score[..., None], axis=1)


def _match(iou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which predictions are true positives: (Q, N, G) IoUs, best score first, to (Q, N, thresholds).

    In turn each prediction takes the moment it overlaps most among those still free and above the threshold;
    of equal ones the last.
    """
    num_queries, num_predictions, num_moments = iou.shape
    thresholds = np.array(MAP_THRESHOLDS)
    free = np.ones((num_queries, len(thresholds), num_moments), dtype=bool)
    hits = np.zeros((num_queries, num_predictions, len(thresholds)), dtype=bool)
    iou = iou[..., ::-1]  # argmax takes the first of equal ones
    for rank in range(num_predictions):
        candidates = iou[:, rank, None, :] * free
        best = candidates.argmax(axis=2)
        hits[:, rank] = candidates.max(axis=2) >= thresholds
        free &= (np.arange(num_moments) != best[..., None]) | ~hits[:, rank, :, None]
    return hits


def _area_under_curve(hits: NDArray[np.bool_], num_moments: int) -> NDArray[np.float64]:
    """(Q, N, thresholds) hits by rank to (Q, thresholds): recall gains times the best precision left."""
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)[:, None]
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: NDArray[np.float64] = (hits * envelope).sum(axis=1) / num_moments  # every hit gains 1 / num_moments
    return area
