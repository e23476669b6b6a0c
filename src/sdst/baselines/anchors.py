"""R2-Tuning's heads around any side network: moments from the points of a temporal pyramid.

Source: Liu et al., R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding, ECCV 2024. The
side-tuning methods that SDST is compared with (Tab. H, I) differ in how they turn the backbone's levels into one
sequence of clips. The steps before and after are the same for all methods and are in this module.

Kept from R2-Tuning's code: the alignment of both modalities, with each clip's position in the video as two more
features, the pooling of the query, the pyramid, both heads, the points' reach (the losses are in
``sdst.losses.points``), and saliency as class probability times cosine. Adapted:

* The backbone's clips are pooled to one token.
* Padding is ignored by default. In the official training, padding changes results (positions, convolutions and the
  last points include it), but official prediction runs sample by sample without padding; ``see_padding`` reproduces
  the training.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.pyramid import PointHead, Pyramid, upsample
from sdst.models.checks import check_levels, require_at_least, require_probabilities
from sdst.models.heads import saliency_scores
from sdst.models.layers import AdaptivePool, alignment, interleaved, with_places
from sdst.spans import se_to_cw
from sdst.types import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdst.types import Anchors


class Refined(NamedTuple):
    """Output of a side network.

    Attributes:
        clips: (B, T, d) one embedding per clip.
        tokens: (B, L, d) tokens of the query that the clips are compared with.
    """

    clips: Tensor
    tokens: Tensor


class AnchorGrounder(nn.Module):
    """Grounds queries with a side network between R2-Tuning's alignment and its heads.

    The side network is called with

    * ``video`` (B, K, T, d) aligned clips, shallow to deep, and ``video_mask`` (B, T),
    * ``text`` (B, K, L, d) aligned tokens with CLS first, and ``text_mask`` (B, L),
    * ``positions`` (B, T, d), sine and cosine of each clip's position, which attention adds to its queries and keys,

    and returns ``Refined``. Its values at padded clips are ignored.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K.
        refine: The side network.
        dim: d.
        dropout: Dropout probability before each linear layer of the alignment.
        strides: Strides of the pyramid's levels, in clips.
        see_padding: Whether padded clips count as clips of a longer video, except in attention, as in the official
            training.
    """

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        refine: nn.Module,
        *,
        dim: int = 256,
        dropout: float = 0.5,
        strides: Sequence[int] = (1, 2, 4, 8),
        see_padding: bool = False,
    ) -> None:
        super().__init__()
        require_at_least(1, levels=levels)
        require_probabilities(dropout=dropout)
        self.dim, self.levels, self.see_padding = dim, levels, see_padding
        self.align_video = alignment(video_dim + 2, dim, dropout)
        self.align_text = alignment(text_dim, dim, dropout)
        self.pool_text = AdaptivePool(dim)
        self.refine = refine
        self.pyramid = Pyramid(dim, strides)
        self.classify = PointHead(dim, 1)
        self.regress = PointHead(dim, 2)
        self.scales = nn.Parameter(torch.ones(len(strides)))

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor, num_clips: Tensor
    ) -> Output:
        """Ground a batch of queries in their videos.

        Args:
            video: (B, K, T, Dv) clip features of any float type; (1, K, T, Dv) if all queries are about one video.
            video_mask: (B, T) true for valid clips, which come first.
            text: (B, K, L, Dt) token features, CLS first.
            text_mask: (B, L) true for valid tokens.
            num_clips: (B,) duration / clip length.
        """
        check_levels(self.levels, video=video, text=text)
        video = video.expand(len(text), -1, -1, -1)
        seen = torch.ones_like(video_mask) if self.see_padding else video_mask
        count = seen.sum(dim=1)
        index = torch.arange(video.shape[2], device=video.device)
        dtype = self.scales.dtype
        aligned_video = self.align_video(with_places(video.to(dtype), seen))
        aligned_text = self.align_text(text.to(dtype))
        positions = interleaved(2 * math.pi * (index + 1) / count.unsqueeze(1), self.dim)

        refined: Refined = self.refine(
            aligned_video, video_mask, aligned_text, text_mask, positions.to(aligned_video.dtype)
        )
        # The official ReLU works in place, so all later steps use its result, not only the finest level.
        clips = F.relu(refined.clips)
        query = self.pool_text(refined.tokens, text_mask)
        anchors = self.pyramid.anchors(seen)
        levels = self.pyramid(clips)
        class_logits, bounds = self._read(levels, anchors)
        sizes = [level.shape[1] for level in levels]
        probabilities = torch.split(class_logits.sigmoid(), sizes, dim=1)
        shares = [
            upsample(probability, count, stride, video.shape[2])
            for probability, stride in zip(probabilities, self.pyramid.strides, strict=False)
        ]
        return Output(
            class_logits=class_logits.unsqueeze(1),
            references=(se_to_cw(bounds) / num_clips.view(-1, 1, 1)).unsqueeze(1),
            saliency=torch.stack(shares).amax(dim=0) * saliency_scores(clips, query),
            dense=clips,
            query=query,
            video=aligned_video,
            text=self.pool_text(aligned_text, text_mask.unsqueeze(1).expand(aligned_text.shape[:3])),
            # With see_padding, points beyond the video are computed, but the mask excludes them.
            anchors=replace(
                anchors, mask=anchors.mask & (anchors.position < video_mask.sum(dim=1, keepdim=True))
            ),
        )

    def _read(self, levels: Sequence[Tensor], anchors: Anchors) -> tuple[Tensor, Tensor]:
        """Predict class logits (B, A), and start and end (B, A, 2) of each point's moment in clips; both float32.

        The heads regress the logarithms of the distances to start and end, in strides.
        """
        masks = torch.split(anchors.mask, [level.shape[1] for level in levels], dim=1)
        # In float32 even under autocast, like the official heads, because the distances are exponentials.
        with torch.autocast(masks[0].device.type, enabled=False):
            points = [(level.float(), mask) for level, mask in zip(levels, masks, strict=True)]
            class_logits = torch.cat([self.classify(*point) for point in points], dim=1).squeeze(-1)
            distances = torch.cat(
                [
                    self.regress(*point).exp() * scale
                    for point, scale in zip(points, self.scales, strict=False)
                ],
                dim=1,
            )
        start, end = (distances * anchors.stride.unsqueeze(1)).unbind(dim=-1)
        return class_logits, torch.stack([anchors.position - start, anchors.position + end], dim=-1)
