"""Highlight losses of the DETR methods: margins between pairs of clips, ranks, and wrong words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from sdst.losses.moment import mean_of
from sdst.spans import cw_to_se

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.types import Batch

MARGIN = 0.2
TEMPERATURE = 0.5
MOST_VOTES = 12
"""Three annotators with up to 4 each."""
MASKED = -1000.0
"""Score of clips that take no part in a softmax."""


class ClipPairs(NamedTuple):
    """Pairs of clips of which the first should score higher.

    Attributes:
        higher: (B, 2) the clip with the most votes, and one drawn from the relevant clips.
        lower: (B, 2) the annotated clip with the fewest votes, and one drawn from the clips outside all moments.
        mask: (B,) true for samples that have such clips.
    """

    higher: Tensor
    lower: Tensor
    mask: Tensor


def votes(batch: Batch) -> Tensor:
    """(B, T) votes of each clip, 0 to 12; without annotated saliency 1 inside a moment and 0 outside."""
    most = [
        1 if record.clip_scores is None and record.clip_labels is None else MOST_VOTES
        for record in batch.records
    ]
    return (batch.saliency * torch.tensor(most, device=batch.saliency.device).unsqueeze(1)).round()


def annotated(batch: Batch) -> Tensor:
    """(B, T) true for clips that annotators saw, which in QVHighlights are those whose middle lies in a moment."""
    middle = torch.arange(batch.video_mask.shape[1], device=batch.video_mask.device) + 0.5
    start, end = (cw_to_se(batch.moments) * batch.num_clips.view(-1, 1, 1)).unbind(dim=-1)  # (B, G), in clips
    inside = (middle >= start.unsqueeze(2)) & (middle <= end.unsqueeze(2)) & batch.moment_mask.unsqueeze(2)
    return inside.any(dim=1) & batch.video_mask


def clip_pairs(batch: Batch) -> ClipPairs:
    """Two pairs of clips per sample.

    *Reading*: the first of the clips with equal votes counts, because the official data sets sort them in an order that
    depends on the machine. Where all clips are relevant, the first pair counts twice, as in the official code.
    """
    seen, score = annotated(batch), votes(batch)
    highest = score.masked_fill(~seen, -1).argmax(dim=1)
    lowest = score.masked_fill(~seen, MOST_VOTES + 1).argmin(dim=1)
    both = (batch.positive_clip >= 0) & (batch.negative_clip >= 0)
    return ClipPairs(
        higher=torch.stack([highest, batch.positive_clip.where(both, highest)], dim=1),
        lower=torch.stack([lowest, batch.negative_clip.where(both, lowest)], dim=1),
        mask=seen.any(dim=1),
    )


def margin_loss(scores: Tensor, pairs: ClipPairs, margin: float = MARGIN) -> Tensor:
    """Hinge of both pairs: twice the mean of max(0, margin + lower - higher) over samples and pairs.

    Args:
        scores: (B, T) saliency.
        pairs: Pairs of clips.
        margin: A pair costs nothing if its first clip scores higher by at least this.
    """
    gaps = (margin + scores.gather(1, pairs.lower) - scores.gather(1, pairs.higher)).clamp(min=0)
    return 2 * gaps.masked_fill(~pairs.mask.unsqueeze(1), 0).sum() / gaps.numel()


def rank_losses(scores: Tensor, negatives: Tensor | None, labels: Tensor, video_mask: Tensor) -> Tensor:
    """Contrast clips of at least k votes with the others of each sample, for k = 1 to 11.

    Args:
        scores: (B, T) saliency.
        negatives: (B, T) saliency for wrong words, under which no clip is a positive; None leaves it out.
        labels: (B, T) votes.
        video_mask: (B, T) true for valid clips.

    Returns:
        (B,) minus the mean log-probability of positive clips, 0 for a k without any; summed over k and divided by 12.
    """
    labels = labels.masked_fill(~video_mask, 0)
    rows = [scores] if negatives is None else [scores, negatives]
    logits = torch.cat([row.masked_fill(~video_mask, MASKED) for row in rows], dim=1) / TEMPERATURE
    logits = logits - logits.amax(dim=1, keepdim=True).detach()
    log_probability = logits - (logits.exp().sum(dim=1, keepdim=True) + 1e-6).log()
    levels = torch.arange(1, MOST_VOTES, device=labels.device)
    positive = labels.unsqueeze(2) >= levels  # (B, T, k)
    count = positive.sum(dim=1)
    sums = torch.einsum("bt,btk->bk", log_probability[:, : labels.shape[1]], positive.to(scores.dtype))
    return -(sums / (count + 1e-6)).sum(dim=1) / MOST_VOTES


def rank_loss(scores: Tensor, negatives: Tensor | None, labels: Tensor, video_mask: Tensor) -> Tensor:
    """The mean of ``rank_losses`` over the samples."""
    return rank_losses(scores, negatives, labels, video_mask).mean()


def real_rank_loss(
    scores: Tensor, negatives: Tensor, is_real: Tensor, labels: Tensor, video_mask: Tensor
) -> Tensor:
    """``rank_loss`` of samples with real wrong words (``is_real`` (B,)), plus that of others, without wrong words."""
    real = mean_of(rank_losses(scores, negatives, labels, video_mask), is_real)
    return real + mean_of(rank_losses(scores, None, labels, video_mask), ~is_real)


def wrong_words_loss(negatives: Tensor, video_mask: Tensor) -> Tensor:
    """Cross-entropy of "not relevant" for the clips (B, T) of wrong words: sum over clips, mean over samples."""
    return F.softplus(negatives).masked_fill(~video_mask, 0).sum(dim=1).mean()
