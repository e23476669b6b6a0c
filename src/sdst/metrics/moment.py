"""Moment retrieval metrics: R1@IoU, mIoU and detection mAP, as the QVHighlights evaluation defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.spans import pairwise_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAP_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""IoU thresholds of mAP. By division, because sums of 0.05 miss 0.6 slightly and would lose windows with that IoU."""

MAX_PREDICTIONS = 10
"""Number of windows per query that are evaluated, the first ones listed."""


def moment_metrics(
    predictions: Sequence[NDArray[np.float64]],
    moments: Sequence[NDArray[np.float64]],
    recall_thresholds: Sequence[float] = MAP_THRESHOLDS,
    recall_counts: Sequence[int] = (1,),
) -> dict[str, Any]:
    """Compute all moment retrieval metrics over the queries, in percent; all are None if there are no queries.

    Args:
        predictions: (N, 3) start, end, score per query; N = 0 counts as a miss.
        moments: (G, 2) true start and end per query, G > 0.
        recall_thresholds: IoU thresholds of R1.
        recall_counts: Values of N in RN, for which one of the first N windows must reach the threshold.

    Returns:
        ``{"MR-mAP": {"0.5": ..., "average": ...}, "MR-R1": {"0.5": ...}, "MR-mIoU": ...}``, not rounded.
    """
    map_names = [str(threshold) for threshold in MAP_THRESHOLDS] + ["average"]
    if not moments:
        nothing = {f"MR-R{count}": dict.fromkeys(map(str, recall_thresholds)) for count in recall_counts}
        return {"MR-mAP": dict.fromkeys(map_names), **nothing, "MR-mIoU": None}
    mean_ap = 100 * average_precision(predictions, moments).mean(axis=0)
    first = top1_iou(predictions, moments)
    recalls = {}
    for count in recall_counts:
        best = first
        for skipped in range(1, count):
            best = np.maximum(best, top1_iou([windows[skipped:] for windows in predictions], moments))
        recalls[f"MR-R{count}"] = {
            str(threshold): 100 * float((best >= threshold).mean()) for threshold in recall_thresholds
        }
    return {
        "MR-mAP": dict(zip(map_names, [*mean_ap.tolist(), float(mean_ap.mean())], strict=True)),
        **recalls,
        "MR-mIoU": 100 * float(first.mean()),
    }


def top1_iou(
    predictions: Sequence[NDArray[np.float64]], moments: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the (Q,) best IoU of each query's first window with any of its moments; 0 for a query without windows."""
    first = np.array([windows[0, :2] if len(windows) else (0.0, 0.0) for windows in predictions])
    counts = [len(spans) for spans in moments]
    start, end = np.repeat(first, counts, axis=0).T
    true_start, true_end = np.concatenate(moments).T
    inter = (np.minimum(end, true_end) - np.maximum(start, true_start)).clip(min=0)
    # The hull equals the union wherever the intersection is not empty, and has one rounding error instead of
    # four, which decides windows exactly on a threshold. It is empty if both windows are one point: a miss, where the
    # official evaluation would divide 0 by 0.
    hull = np.maximum(end, true_end) - np.minimum(start, true_start)
    iou = np.divide(inter, hull, out=np.zeros_like(inter), where=hull > 0)
    best: NDArray[np.float64] = np.maximum.reduceat(iou, np.cumsum([0, *counts[:-1]]))
    return best


def average_precision(
    predictions: Sequence[NDArray[np.float64]], moments: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the (Q, 10) area under each query's interpolated precision-recall curve at ``MAP_THRESHOLDS``.

    The first ten listed windows are ranked by score, equal scores in the order of the list.
    """
    ranked = _rank(predictions)
    counts = np.array([len(spans) for spans in moments])
    result = np.zeros((len(moments), len(MAP_THRESHOLDS)))
    for count in np.unique(counts):  # queries with the same number of moments need no padding
        queries = np.flatnonzero(counts == count)
        hits = _match(pairwise_iou(ranked[queries], np.stack([moments[query] for query in queries.tolist()])))
        result[queries] = _area_under_curve(hits, num_moments=int(count))
    return result


def _rank(predictions: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return (Q, 10, 2) windows by falling score; short lists are padded with empty windows, which change nothing."""
    padded = np.zeros((len(predictions), MAX_PREDICTIONS, 3))
    padded[..., 2] = -np.inf
    for row, windows in zip(padded, predictions, strict=True):
        row[: len(windows)] = windows[:MAX_PREDICTIONS]
    by_score = np.argsort(-padded[..., 2], axis=1, kind="stable")
    return np.take_along_axis(padded[..., :2], by_score[..., None], axis=1)


def _match(iou: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Find true positives: map (Q, N, G) IoUs, best score first, to (Q, N, thresholds).

    Each prediction in turn takes the free moment of the highest IoU (of equal ones the last), if that reaches the
    threshold.
    """
    num_queries, num_predictions, num_moments = iou.shape
    thresholds = np.array(MAP_THRESHOLDS)
    free = np.ones((num_queries, len(thresholds), num_moments), dtype=bool)
    hits = np.zeros((num_queries, num_predictions, len(thresholds)), dtype=bool)
    iou = iou[..., ::-1]  # reversed, because argmax takes the first of equal ones
    for rank in range(num_predictions):
        candidates = iou[:, rank, None, :] * free
        best = candidates.argmax(axis=2)
        hits[:, rank] = candidates.max(axis=2) >= thresholds
        free &= (np.arange(num_moments) != best[..., None]) | ~hits[:, rank, :, None]
    return hits


def _area_under_curve(hits: NDArray[np.bool_], num_moments: int) -> NDArray[np.float64]:
    """Map (Q, N, thresholds) hits by rank to (Q, thresholds): recall gains times the best precision from there on."""
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)[:, None]
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area: NDArray[np.float64] = (hits * envelope).sum(axis=1) / num_moments  # every hit gains 1 / num_moments
    return area
