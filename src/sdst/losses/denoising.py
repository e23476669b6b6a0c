"""Losses of query denoising, whose queries are noised true moments (``sdst.models.denoising``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange

from sdst.losses.moment import focal_errors, iou_loss, l1_loss, summed

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
    """Class and boundary losses of noised moments at each level.

    A positive query should return its true moment, and a negative one should be classified as no moment.

    Args:
        class_logits: (B, K, N) logits, N = groups × (positive, negative) × G.
        references: (B, K, N, 2) predicted (centre, width).
        moments: (B, G, 2) true (centre, width).
        moment_mask: (B, G) true for valid moments.
        alpha: See ``focal_errors``.
        gamma: See ``focal_errors``.

    Returns:
        ``cls``, ``l1`` and ``iou``, each (K,): sums divided by the number of valid positive queries (at least 1).
    """
    size = moment_mask.shape[1]
    logits = rearrange(class_logits, "B K (r two G) -> B K r two G", two=2, G=size)
    predicted = rearrange(references, "B K (r two G) cw -> B K r two G cw", two=2, G=size)[:, :, :, 0]
    true = moments[:, None, None].expand_as(predicted)
    valid = moment_mask[:, None, None].expand(predicted.shape[:-1])  # (B, K, r, G)
    count = valid[:, :1].sum().clamp(min=1)
    positive = torch.zeros_like(logits, dtype=torch.bool)
    positive[:, :, :, 0] = True
    errors = focal_errors(logits, positive, alpha=alpha, gamma=gamma)
    return {
        "cls": summed(errors, valid.unsqueeze(3).expand_as(errors)) / count,
        "l1": summed(l1_loss(predicted, true), valid) / count,
        "iou": summed(iou_loss(predicted, true), valid) / count,
    }
