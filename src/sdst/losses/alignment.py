"""The alignment losses: InfoNCE between clips and queries, over the batch (eq. 21) and over levels (eq. 22)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sdst.losses.moment import mean_of
from sdst.losses.saliency import no_negatives

if TYPE_CHECKING:
    from torch import Tensor


def info_nce(a: Tensor, b: Tensor, excluded: Tensor | None = None, *, temperature: float = 0.07) -> Tensor:
    """InfoNCE between paired embeddings, the mean of both directions.

    Args:
        a: (..., N, d) embeddings of any norm; the similarity is the cosine.
        b: (..., N, d) embeddings; b[..., i, :] is the positive of a[..., i, :] and the others are its negatives.
        excluded: (N, N) symmetric bool, false on the diagonal; true for pairs (i, j) that do not count as negatives.
        temperature: Divisor of the cosines.

    Returns:
        (..., N) loss of each pair.
    """
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(-1, -2) / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    a_to_b = logits.log_softmax(dim=-1).diagonal(dim1=-2, dim2=-1)
    b_to_a = logits.log_softmax(dim=-2).diagonal(dim1=-2, dim2=-1)
    return -(a_to_b + b_to_a) / 2


def video_alignment(
    video: Tensor, text: Tensor, positive_clip: Tensor, video_index: Tensor, *, temperature: float = 0.07
) -> Tensor:
    """InfoNCE over the batch at each level (eq. 21).

    *Reading*: other queries about the same video are not used as negatives. Samples without a positive clip are left
    out.

    Args:
        video: (B, K, T, d) aligned clip embeddings.
        text: (B, K, d) pooled aligned query of each level.
        positive_clip: (B,) int64 index of the positive clip, -1 if the sample has none.
        video_index: (B,) int64, equal for samples of one video.
        temperature: Divisor of the cosines.

    Returns:
        (K,) loss of each level: mean over the samples with a positive clip; 0 (with a gradient of 0) without any.
    """
    used = positive_clip >= 0
    clip = _positive_clips(video, positive_clip)
    loss = info_nce(
        clip.transpose(0, 1), text.transpose(0, 1), no_negatives(video_index, used), temperature=temperature
    )
    return loss.masked_fill(~used, 0).sum(dim=1) / used.sum().clamp(min=1)


def level_alignment(
    video: Tensor, text: Tensor, positive_clip: Tensor, *, temperature: float = 0.07
) -> Tensor:
    """InfoNCE over the levels of each sample (eq. 22), with the arguments of ``video_alignment``.

    Returns:
        Scalar: mean over levels and over the samples with a positive clip; 0 (with a gradient of 0) without any.
    """
    used = positive_clip >= 0
    loss = info_nce(_positive_clips(video, positive_clip), text, temperature=temperature).mean(dim=1)
    return mean_of(loss, used)


def _positive_clips(video: Tensor, positive_clip: Tensor) -> Tensor:
    """(B, K, d) embeddings of the positive clips; a sample without one gives its first, so no GPU is waited for."""
    return video[torch.arange(len(video), device=video.device), :, positive_clip.clamp(min=0)]
