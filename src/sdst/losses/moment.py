"""The moment retrieval losses: class, boundaries, actionness (eq. 17-20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sdst.spans import aligned_iou, cw_to_se, pairwise_iou

if TYPE_CHECKING:
    from torch import Tensor


def focal_errors(
    class_logits: Tensor, matched: Tensor, *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss of each query's class, with target 1 for matched and 0 for unmatched queries (eq. 17).

    Args:
        class_logits: Logits of any shape.
        matched: Bool of the same shape.
        alpha: Weight of matched queries, see ``class_weights``.
        gamma: Focal exponent; the larger it is, the less a well-classified query counts.

    Returns:
        Loss of each query, in the same shape.
    """
    positive, negative = class_weights(alpha)
    target = matched.to(class_logits.dtype)
    probability = class_logits.sigmoid()
    error = (target - probability).abs()
    weight = positive * target + negative * (1 - target)
    cross_entropy = F.binary_cross_entropy_with_logits(class_logits, target, reduction="none")
    return weight * error**gamma * cross_entropy


def class_weights(alpha: float | None) -> tuple[float, float]:
    """Weights of matched and unmatched queries in the focal loss: ``alpha`` and 1 - ``alpha``; both 1 if it is None."""
    return (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)


def matched_moments(moments: Tensor, assignment: Tensor) -> Tensor:
    """Return the true moment of each query.

    Unmatched queries get one too: to choose the matched ones would wait for a GPU, because their number depends on
    values.

    Args:
        moments: (B, G, 2) true (centre, width).
        assignment: (B, K, M) index of the true moment or -1, from ``matcher.match``.

    Returns:
        (B, K, M, 2) (centre, width), zero where unmatched.
    """
    moments = F.pad(moments, (0, 0, 0, 1))  # -1 is the last one
    sample = torch.arange(len(moments), device=moments.device).view(-1, 1, 1)
    return moments[sample, assignment]


def summed(losses: Tensor, counted: Tensor) -> Tensor:
    """Sum (B, K, ...) losses over all that are ``counted``, a mask of the same shape, for each of K levels: (K,)."""
    return losses.masked_fill(~counted, 0).flatten(2).sum(dim=(0, 2))


def averaged(losses: Tensor, counted: Tensor) -> Tensor:
    """Mean of (B, K, M) losses over those that are ``counted``, for each of K levels: (K,), 0 without any."""
    return summed(losses, counted) / counted.sum(dim=(0, 2)).clamp(min=1)


def mean_of(losses: Tensor, counted: Tensor) -> Tensor:
    """Mean of the losses that are ``counted``, a mask of the same shape; 0 without any."""
    return losses.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


def l1_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """|centre error| + |width error| (eq. 18) of each pair (..., 2)."""
    return (predicted - true).abs().sum(dim=-1)


def iou_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """1 - temporal IoU (eq. 19) of each (centre, width) pair (..., 2)."""
    return 1 - aligned_iou(cw_to_se(predicted), cw_to_se(true))


def actionness_loss(actionness: Tensor, references: Tensor, moments: Tensor, moment_mask: Tensor) -> Tensor:
    """L1 distance between the predicted and the actual best IoU of each query (eq. 20).

    Args:
        actionness: (B, M) predicted best IoU, in (0, 1).
        references: (B, M, 2) the last level's (centre, width); they only define the target and get no gradient.
        moments: (B, G, 2) true (centre, width).
        moment_mask: (B, G) true for valid moments.

    Returns:
        Scalar: mean over samples and queries. A sample without true moments has target 0.
    """
    best = best_iou(cw_to_se(references.detach()), moments, moment_mask)
    return (actionness - best).abs().mean()


def best_iou(spans_se: Tensor, moments: Tensor, moment_mask: Tensor) -> Tensor:
    """Largest IoU of each span (B, M, 2), as (start, end), with a true moment of its sample; 0 without moments."""
    iou = pairwise_iou(spans_se, cw_to_se(moments))  # (B, M, G)
    iou = iou.masked_fill(~moment_mask[:, None], 0)
    return F.pad(iou, (0, 1)).amax(dim=-1)  # the extra zero is the maximum if G = 0
