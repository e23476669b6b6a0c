"""Weighted boxes fusion of moments: those that overlap become one, and a moment that others confirm scores higher.

Source: Solovyev et al., Weighted boxes fusion: Ensembling boxes from different object detection models, 2021, in one
dimension. *Reading*: thresholds and weights of both heads are SG-DETR's, see ``sdst.baselines.sg_detr``.

Adapted: the best moment of each head is never dropped, however low its score, so a query always gets a moment; and a
moment without length is not dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.spans import aligned_iou

WEIGHTS = (2 * 1 / 3.5, 2 * 2.5 / 3.5)
"""Weights of the scores of the last level and of the second head, 1 : 2.5, with mean 1."""
LEAST_SCORE = 0.1
"""Moments with a lower score are dropped before fusion."""
DUPLICATE = 0.75
"""IoU above which the worse one of two moments of the second head is dropped before fusion."""
DETECTIONS = 10
"""Number of moments of the second head that are fused."""
SMALLEST = 1e-9
"""Smallest weight of a moment, so that the mean of moments that all score 0 exists."""


def without_low_scores(scores: Tensor) -> Tensor:
    """Scores (B, M) with -inf for those below ``LEAST_SCORE``, except the best of each sample."""
    is_low = (scores < LEAST_SCORE) & (scores < scores.amax(dim=1, keepdim=True))
    return scores.masked_fill(is_low, -torch.inf)


def fuse(windows_se: Tensor, scores: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """Join each window, best first, with the windows before it that it overlaps most.

    A group's window is the mean of its windows, weighted by score. A window joins the group whose window has the
    highest IoU with it, if that is above ``iou_threshold``; otherwise it begins a group. A group of n windows scores
    the mean of their scores, halved for n = 1.

    Args:
        windows_se: (B, M, 2) start and end in seconds.
        scores: (B, M), at least 0, or -inf for rows that are not moments.
        iou_threshold: IoU above which windows are joined.

    Returns:
        (B, M, 2) windows and (B, M) scores of the groups, in the order in which they begin; -inf for rows without one.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    windows_se, scores = windows_se.take_along_dim(order.unsqueeze(-1), dim=1), scores.gather(1, order)
    is_moment = scores != -torch.inf  # NaN stays, see decode_moments
    scores = scores.masked_fill(~is_moment, 0)
    groups, total = torch.zeros_like(windows_se), torch.zeros_like(scores)
    weight, count = torch.zeros_like(scores), torch.zeros_like(scores)
    samples = torch.arange(len(scores), device=scores.device)
    for row in range(scores.shape[1]):
        window, score = windows_se[:, row], scores[:, row]
        iou = aligned_iou(groups, window.unsqueeze(1)).masked_fill(count == 0, -1)
        best = iou.max(dim=1)
        group = best.indices.where(best.values > iou_threshold, row)
        share = score.clamp(min=SMALLEST) * is_moment[:, row]
        weight[samples, group] += share
        step = share / weight[samples, group].clamp(min=SMALLEST)
        groups[samples, group] += step.unsqueeze(1) * (window - groups[samples, group])
        total[samples, group] += score
        count[samples, group] += is_moment[:, row]
    fused = total / count.clamp(min=1) * count.clamp(max=2) / 2
    return groups, fused.masked_fill(count == 0, -torch.inf)
