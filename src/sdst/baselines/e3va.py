"""E3VA: low-rank adapters on a highway beside the backbone (``model=e3va``).

Source: Yin et al., Parameter-efficient is not Sufficient: Exploring Parameter, Memory, and Time Efficient Adapter
Tuning for Dense Predictions, arXiv 2306.09729.

Kept: gradients only flow through a highway parallel to the backbone; each level has two bottleneck adapters, which
read the backbone's activations and add to the state of the highway; after the last level, the highway is added to the
backbone's last level and normalised before the heads.

Adapted to cached levels and to queries, *reading*: both adapters of a level read its one cached state instead of the
outputs of its attention and its MLP, and between them the clips attend to the query's words, with one attention shared
by all levels. The adapters' matrices are not factorised further, because aligned levels are much narrower than the
backbone. Alignment, pyramid, heads and losses are R2-Tuning's (``sdst.baselines.anchors``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sdst.baselines.anchors import AnchorGrounder, Refined
from sdst.models.checks import require_at_least, require_heads, require_probabilities
from sdst.models.layers import MultiHeadAttention, Residual, mlp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Highway(nn.Module):
    """The side network.

    Args:
        levels: K.
        dim: d.
        heads: H.
        bottleneck: Hidden width of an adapter.
        drop_path: Probability of dropping the update from the words.
    """

    def __init__(self, levels: int, dim: int, heads: int, bottleneck: int, drop_path: float) -> None:
        super().__init__()
        self.before = nn.ModuleList(mlp(dim, bottleneck, dim, depth=2) for _ in range(levels))
        self.after = nn.ModuleList(mlp(dim, bottleneck, dim, depth=2) for _ in range(levels))
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.residual = Residual(dim, drop_path)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor, positions: Tensor
    ) -> Refined:
        """Refine from the shallowest level to the deepest; see ``AnchorGrounder`` for the arguments."""
        all_clips, all_tokens = video.unbind(1), text.unbind(1)
        highway = torch.zeros_like(all_clips[0])
        for before, after, clips, words in zip(self.before, self.after, all_clips, all_tokens, strict=True):
            highway = highway + before(clips + highway)
            state = clips + highway
            state = self.residual(state, self.cross_attention(state + positions, words, words, text_mask))
            highway = highway + after(state)
        return Refined(self.norm(all_clips[-1] + highway), all_tokens[-1])


class E3VA(AnchorGrounder):
    """E3VA with R2-Tuning's heads.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K.
        dim: d, the hidden width.
        heads: H, of every attention.
        bottleneck_ratio: d divided by the width of an adapter's bottleneck.
        dropout: Dropout probability before each linear layer of the alignment.
        drop_path: Probability of dropping the update from the words at a level.
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
        bottleneck_ratio: int = 2,
        dropout: float = 0.5,
        drop_path: float = 0.1,
        strides: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        require_heads(dim, heads)
        require_at_least(1, levels=levels, bottleneck_ratio=bottleneck_ratio)
        require_probabilities(drop_path=drop_path)
        highway = Highway(levels, dim, heads, max(1, dim // bottleneck_ratio), drop_path)
        super().__init__(video_dim, text_dim, levels, highway, dim=dim, dropout=dropout, strides=strides)
