"""LoSA: a long-range and a short-range adapter at every level, fused by gates (``model=losa``).

Source: Gupta et al., LoSA: Long-Short-range Adapter for Scaling End-to-End Temporal Action Localization,
arXiv 2404.01282.

Kept: adapters run parallel to the backbone, each with its own weights; each level has a long-range adapter over all
clips of the untrimmed video and a short-range adapter over a clip and its neighbours; learned gates weight the
adapters' outputs, which are added to the backbone's last level.

Adapted to cached levels and to queries, *reading*: the original short-range adapter attends within a clip and its
neighbourhood, which with one token per clip becomes a convolution over three clips; the long-range adapter is a decoder
layer, whose self-attention reads all clips and whose cross-attention reads the query's words of its level. Alignment,
pyramid, heads and losses are R2-Tuning's (``sdst.baselines.anchors``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sdst.baselines.anchors import AnchorGrounder, Refined
from sdst.models.attention import ContextCNN
from sdst.models.checks import require_at_least, require_heads, require_probabilities
from sdst.models.dense_stream import SIGNALS, DenseStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class LongShortRange(nn.Module):
    """The side network.

    Args:
        levels: K.
        dim: d.
        heads: H.
        ffn_ratio: Hidden width of the feed-forward networks, in d.
        drop_path: Probability of dropping a residual update.
    """

    def __init__(self, levels: int, dim: int, heads: int, ffn_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.long = nn.ModuleList(DenseStream(dim, heads, ffn_ratio, drop_path) for _ in range(levels))
        self.short = nn.ModuleList(ContextCNN(dim, depth=1) for _ in range(levels))
        self.gates = nn.Parameter(torch.zeros(levels, 2))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor, positions: Tensor
    ) -> Refined:
        """Fuse both adapters of all levels; see ``AnchorGrounder`` for the arguments."""
        all_clips, all_tokens = video.unbind(1), text.unbind(1)
        fused = all_clips[-1]
        for long, short, gates, clips, words in zip(
            self.long, self.short, self.gates.sigmoid(), all_clips, all_tokens, strict=True
        ):
            related = long(clips, positions, video_mask, words, text_mask)[SIGNALS[-1]]
            fused = fused + gates[0] * related + gates[1] * short(clips, video_mask)
        return Refined(self.norm(fused), all_tokens[-1])


class LoSA(AnchorGrounder):
    """LoSA with R2-Tuning's heads.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K.
        dim: d, the hidden width.
        heads: H, of every attention.
        ffn_ratio: Hidden width of the feed-forward networks, in d.
        dropout: Dropout probability before each linear layer of the alignment.
        drop_path: Probability of dropping a residual update.
        strides: Strides of the pyramid's levels, in clips.
    """

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        dim: int = 256,
        heads: int = 8,
        ffn_ratio: int = 4,
        dropout: float = 0.5,
        drop_path: float = 0.1,
        strides: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        require_heads(dim, heads)
        require_at_least(1, levels=levels, ffn_ratio=ffn_ratio)
        require_probabilities(drop_path=drop_path)
        adapters = LongShortRange(levels, dim, heads, ffn_ratio, drop_path)
        super().__init__(video_dim, text_dim, levels, adapters, dim=dim, dropout=dropout, strides=strides)
