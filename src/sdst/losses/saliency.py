"""The highlight detection loss: SampledNCE ranking of a video's clips (eq. 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sdst.losses.moment import mean_of

if TYPE_CHECKING:
    from torch import Tensor


def sampled_nce(
    dense: Tensor,
    text: Tensor,
    saliency: Tensor,
    video_mask: Tensor,
    positive_clip: Tensor,
    video_index: Tensor,
    *,
    temperature: float = 0.07,
) -> Tensor:
    """Contrast one positive clip per sample with less salient clips and with other samples.

    The scores s[i, t] = cos(dense[i, t], text[i]) / temperature form one row per sample and one column per
    clip position. A valid clip is a candidate of its sample if its target saliency is at most that of the
    sample's positive clip p[i]. Then, *reading* eq. 12 as the loss of R2-Tuning:

    * rows: softmax of s[i, :] over the candidates of sample i;
    * columns: softmax of s[:, p[i]], the same clip position in all samples, each clip scored against its
      *own* sample's query, over the samples in which that clip is a candidate.

    *Reading*: other queries about the same video are not used as negatives, so they are left out of a sample's
    column. A sample without a positive clip has no row and is in no column.

    Args:
        dense: (B, T, d) last dense embedding.
        text: (B, d) pooled query of the last level.
        saliency: (B, T) target saliency.
        video_mask: (B, T) true for valid clips.
        positive_clip: (B,) int64 index of the positive clip, -1 if the sample has none.
        video_index: (B,) int64, equal for samples of one video.
        temperature: Divisor of the cosines.

    Returns:
        Scalar: mean over rows + mean over columns of -log softmax at the positive clip; there is one row and one
        column per sample with a positive clip. 0 (with a gradient of 0) without any such sample.
    """
    used = positive_clip >= 0
    positive = positive_clip.clamp(
        min=0
    )  # a sample without one is computed too and left out below, so that nothing waits for a GPU
    scores = F.cosine_similarity(dense, text[:, None], dim=-1) / temperature  # (B, T)
    candidate = video_mask & (saliency <= saliency.gather(1, positive[:, None]))
    scores = scores.masked_fill(~candidate, -torch.inf)

    rows = scores.log_softmax(dim=1).gather(1, positive[:, None]).squeeze(1)
    columns = scores[:, positive].T  # (B, B): [i, j] is position p[i] in sample j
    columns = columns.masked_fill(no_negatives(video_index, used), -torch.inf).log_softmax(dim=1).diagonal()
    return mean_of(-rows - columns, used)


def no_negatives(video_index: Tensor, used: Tensor) -> Tensor:
    """Pairs of different samples that are not negatives of each other, because they share a video or one is not used.

    Args:
        video_index: (B,) int64, equal for samples of one video.
        used: (B,) true for samples in use.

    Returns:
        (B, B) symmetric bool, false on the diagonal.
    """
    excluded = (video_index[:, None] == video_index) | ~(used[:, None] & used)
    return excluded.fill_diagonal_(False)
