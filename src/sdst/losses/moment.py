"""The moment retrieval losses: class, boundaries, actionness (eq. 17-20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from sdst.spans import aligned_iou, cw_to_se, pairwise_iou

if TYPE_CHECKING:
    from torch import Tensor


def focal_loss(
    class_logits: Tensor,
    matched: Tensor,
    normaliser: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sigmoid focal loss of the query classes, with target 1 for matched and 0 for unmatched queries (eq. 17).

    Args:
        class_logits: Logits of any shape.
        matched: Bool of the same shape.
        normaliser: Positive scalar that divides the sum.
        alpha: Weight of matched queries, see ``class_weights``.
        gamma: Focal exponent: the larger, the less well-classified queries count.

    Returns:
        Scalar: sum over all / ``normaliser``.
    """
    positive, negative = class_weights(alpha)
    target = matched.to(class_logits.dtype)
    probability = class_logits.sigmoid()
    error = (target - probability).abs()
    weight = positive * target + negative * (1 - target)
    cross_entropy = F.binary_cross_entropy_with_logits(class_logits, target, reduction="none")
    return (weight * error**gamma * cross_entropy).sum() / normaliser


def class_weights(alpha: float | None) -> tuple[float, float]:
    """Weights of matched and unmatched queries in the focal loss: ``alpha`` and 1 - ``alpha``; both 1 if it is None."""
    return (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)


def matched_pairs(references: Tensor, moments: Tensor, assignment: Tensor) -> tuple[Tensor, Tensor]:
    """Return the N matched predictions of all samples and levels with their true moments.

    Args:
        references: (B, K, M, 2) predicted (centre, width).
        moments: (B, G, 2) true (centre, width).
        assignment: (B, K, M) index of the true moment or -1, from ``matcher.match``.

    Returns:
        (N, 2) predicted and (N, 2) true (centre, width).
    """
    sample, level, query = (assignment >= 0).nonzero(as_tuple=True)
    return references[sample, level, query], moments[sample, assignment[sample, level, query]]


def l1_loss(predicted: Tensor, true: Tensor, normaliser: Tensor) -> Tensor:
    """|centre error| + |width error| (eq. 18) of the (N, 2) pairs: sum over pairs / ``normaliser``."""
    return (predicted - true).abs().sum() / normaliser


def iou_loss(predicted: Tensor, true: Tensor, normaliser: Tensor) -> Tensor:
    """1 - temporal IoU (eq. 19) of the (N, 2) (centre, width) pairs: sum over pairs / ``normaliser``."""
    return (1 - aligned_iou(cw_to_se(predicted), cw_to_se(true))).sum() / normaliser


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
