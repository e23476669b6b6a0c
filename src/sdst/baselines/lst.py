"""Ladder side-tuning: a separate narrow network beside the backbone, one block per level (``model=lst``).

Source: Sung et al., LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning, NeurIPS 2022.

Kept: the side network is narrower than its input by a constant factor; a ladder projects each level's activations down
and a gate σ(α/0.1) mixes them with the side network's state; the last state is projected up for the heads.

Adapted to cached levels and to queries, *reading*: a block is a decoder layer, which also attends to the query's words
of its level, so that every level depends on the query, as in the other methods. LST initialises its blocks with pruned
weights of the backbone, whose blocks read frames; these blocks read clips and start at random. Alignment, pyramid,
heads and losses are R2-Tuning's (``sdst.baselines.anchors``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from sdst.baselines.anchors import AnchorGrounder, Refined
from sdst.errors import UserError
from sdst.models.checks import require_at_least, require_heads, require_probabilities
from sdst.models.dense_stream import SIGNALS, DenseStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

TEMPERATURE = 0.1
"""Temperature of the ladder's gates."""


class Ladder(nn.Module):
    """The side network.

    Args:
        levels: K.
        dim: d, the width of its input and output.
        width: Width of the side network.
        heads: H.
        ffn_ratio: Hidden width of the feed-forward networks, in widths of the side network.
        drop_path: Probability of dropping a residual update.
    """

    def __init__(
        self, levels: int, dim: int, width: int, heads: int, ffn_ratio: int, drop_path: float
    ) -> None:
        super().__init__()
        self.narrow_clips = nn.ModuleList(nn.Linear(dim, width) for _ in range(levels))
        self.narrow_tokens = nn.Linear(dim, width)
        self.narrow_places = nn.Linear(dim, width, bias=False)
        self.gates = nn.Parameter(torch.zeros(levels - 1)) if levels > 1 else None
        self.blocks = nn.ModuleList(DenseStream(width, heads, ffn_ratio, drop_path) for _ in range(levels))
        self.widen = nn.Linear(width, dim)

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor, positions: Tensor
    ) -> Refined:
        """Refine from the shallowest level to the deepest; see ``AnchorGrounder`` for the arguments."""
        places = self.narrow_places(positions)
        all_clips, all_tokens = video.unbind(1), text.unbind(1)
        state: Tensor | None = None
        for level, (narrow, block) in enumerate(zip(self.narrow_clips, self.blocks, strict=True)):
            clips = narrow(all_clips[level])
            if self.gates is not None and state is not None:
                gate = (self.gates[level - 1] / TEMPERATURE).sigmoid()
                clips = gate * clips + (1 - gate) * state
            words = self.narrow_tokens(all_tokens[level])
            state = block(clips, places, video_mask, words, text_mask)[SIGNALS[-1]]
        return Refined(self.widen(state), all_tokens[-1])


class LST(AnchorGrounder):
    """Ladder side-tuning with R2-Tuning's heads.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K.
        dim: d, the hidden width.
        heads: H, of every attention.
        reduction: d divided by the width of the side network.
        ffn_ratio: Hidden width of the feed-forward networks, in widths of the side network.
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
        reduction: int = 4,
        ffn_ratio: int = 4,
        dropout: float = 0.5,
        drop_path: float = 0.1,
        strides: Sequence[int] = (1, 2, 4, 8),
    ) -> None:
        require_heads(dim, heads)
        require_at_least(1, levels=levels, reduction=reduction, ffn_ratio=ffn_ratio)
        require_probabilities(drop_path=drop_path)
        if dim % (reduction * heads):
            raise UserError(
                f"model.dim / model.reduction must be a whole multiple of model.heads = {heads}, "
                f"got {dim} / {reduction}; change model.reduction"
            )
        ladder = Ladder(levels, dim, dim // reduction, heads, ffn_ratio, drop_path)
        super().__init__(video_dim, text_dim, levels, ladder, dim=dim, dropout=dropout, strides=strides)
