"""Losses of query denoising, whose queries are noised true moments (``sdst.models.denoising``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange

from sdst.losses.moment import focal_loss, iou_loss, l1_loss

if TYPE_CHECKING:
    from torch import Tensor


def denoising_losses(
    class_logits: Tensor,
    references: Tensor,
    moments: Tensor,
    moment_mask: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> dict[str, Tensor]:
    """Class and boundary losses of noised moments at one level.

    A positive query is to give back its true moment, a negative one is to be called no moment.

    Args:
        class_logits: (B, N) logits, N = groups × (positive, negative) × G.
        references: (B, N, 2) predicted (centre, width).
        moments: (B, G, 2) true (centre, width).
        moment_mask: (B, G) true for valid moments.
        alpha: See ``focal_loss``.
        gamma: See ``focal_loss``.

    Returns:
        Scalars ``cls``, ``l1`` and ``iou``, sums divided by the number of valid positive queries (at least 1).
    """
    logits = rearrange(class_logits, "B (r two G) -> r two B G", two=2, G=moment_mask.shape[1])
    predicted = rearrange(references, "B (r two G) cw -> r two B G cw", two=2, G=moment_mask.shape[1])[:, 0]
    valid = moment_mask.expand(len(predicted), -1, -1)  # (r, B, G)
    count = valid.sum().clamp(min=1)
    both = valid.unsqueeze(1).expand_as(logits)
    positive = both.clone()
    positive[:, 1] = False
    pairs = predicted[valid], moments.expand_as(predicted)[valid]
    return {
        "cls": focal_loss(logits[both], positive[both], count, alpha=alpha, gamma=gamma),
        "l1": l1_loss(*pairs, count),
        "iou": iou_loss(*pairs, count),
    }
