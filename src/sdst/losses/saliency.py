"""The highlight detection loss: SampledNCE ranking of a video's clips (eq. 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

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
    positive, videos = positive_clip[used], video_index[used]
    scores = F.cosine_similarity(dense[used], text[used, None], dim=-1) / temperature  # (N, T)
    saliency = saliency[used]
    candidate = video_mask[used] & (saliency <= saliency.gather(1, positive[:, None]))
    scores = scores.masked_fill(~candidate, -torch.inf)

    rows = scores.log_softmax(dim=1).gather(1, positive[:, None])
    columns = scores[:, positive].T  # (N, N): [i, j] is position p[i] in sample j
    columns = columns.masked_fill(same_video_pairs(videos), -torch.inf).log_softmax(dim=1).diagonal()
    return -(rows.sum() + columns.sum()) / max(len(positive), 1)


def same_video_pairs(video_index: Tensor) -> Tensor:
    """Return (N, N) bool: true for different samples of the same video, which are not negatives of each other."""
    same = video_index[:, None] == video_index
    return same.fill_diagonal_(False)
