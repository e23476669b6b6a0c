"""Hungarian matching of moment queries to true moments, at every level (App. C.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from sdst.losses.moment import class_weights
from sdst.spans import cw_to_se, pairwise_iou

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@torch.no_grad()
def match(
    class_logits: Tensor,
    references: Tensor,
    moments: Tensor,
    moment_mask: Tensor,
    weights: Mapping[str, float],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Match queries to true moments one to one, at the lowest total cost for each (sample, level).

    If there are more true moments than queries, every query is matched and some moments are not; without true
    moments nothing is matched.

    Args:
        class_logits: (B, K, M) logit of "this query is a moment".
        references: (B, K, M, 2) predicted (centre, width) in (0, 1).
        moments: (B, G, 2) true (centre, width).
        moment_mask: (B, G) true for valid moments.
        weights: Weights of the costs ``cls``, ``l1`` and ``iou``.
        alpha: Weight of matched queries, see ``class_weights``.
        gamma: Focal exponent.

    Returns:
        (B, K, M) int64 index in 0..G-1 of the query's true moment, -1 where unmatched.

    Raises:
        FloatingPointError: A cost of a true moment is NaN or infinite.
    """
    return assign(
        matching_cost(class_logits, references, moments, weights, alpha=alpha, gamma=gamma), moment_mask
    )


def assign(matching_cost: Tensor, moment_mask: Tensor) -> Tensor:
    """Choose the pairs of the lowest total cost for each (sample, level).

    Args:
        matching_cost: (B, K, M, G) cost of every pair.
        moment_mask: (B, G) true for valid moments.

    Returns:
        (B, K, M) as from ``match``.

    Raises:
        FloatingPointError: A cost of a true moment is NaN or infinite.
    """
    # One transfer, because each transfer waits for the GPU: the mask travels as one more query.
    mask = moment_mask[:, None, None].expand_as(matching_cost[:, :, :1]).to(matching_cost.dtype)
    transferred = torch.cat([matching_cost, mask], dim=2).cpu().numpy()
    cost, valid = transferred[:, :, :-1], transferred[:, 0, -1]
    assignment = np.full(cost.shape[:3], -1, dtype=np.int64)
    for sample, level in np.ndindex(*assignment.shape[:2]):
        (columns,) = valid[sample].nonzero()
        sample_cost = cost[sample, level][:, columns]
        if not np.isfinite(sample_cost).all():
            raise FloatingPointError(
                f"matching cost of sample {sample}, level {level} is not finite, because the model's class logits "
                "or references are not finite; lower the learning rate or train in bf16 or fp32"
            )
        queries, matched = linear_sum_assignment(sample_cost)
        assignment[sample, level, queries] = columns[matched]
    return torch.from_numpy(assignment).to(matching_cost.device)


def matching_cost(
    class_logits: Tensor,
    references: Tensor,
    moments: Tensor,
    weights: Mapping[str, float],
    *,
    alpha: float | None,
    gamma: float,
) -> Tensor:
    """Compute the (B, K, M, G) float32 cost of every pair, also for padded moments; arguments as in ``match``.

    The class cost is the focal loss (eq. 17) of the query if matched minus its focal loss if unmatched; the L1 cost
    is summed over centre and width; the IoU cost is 1 - IoU.
    """
    logits, predicted, true = class_logits.float(), references.float(), moments.float()[:, None]
    probability = logits.sigmoid()
    positive, negative = class_weights(alpha)
    as_matched = -positive * (1 - probability) ** gamma * F.logsigmoid(logits)
    as_unmatched = -negative * probability**gamma * F.logsigmoid(-logits)
    class_cost = (as_matched - as_unmatched)[..., None]  # (B, K, M, 1): the same for every true moment
    l1_cost = (predicted[..., :, None, :] - true[..., None, :, :]).abs().sum(dim=-1)
    iou_cost = 1 - pairwise_iou(cw_to_se(predicted), cw_to_se(true))
    return weights["cls"] * class_cost + weights["l1"] * l1_cost + weights["iou"] * iou_cost
