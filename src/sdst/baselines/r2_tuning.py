"""R2-Tuning: one block refines the clips from the last backbone level back to the first (``model=r2_tuning``).

Source: Liu et al., R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding, ECCV 2024, and
its official code: with the official weights (``convert_official``), outputs and losses are the same.

Adapted, in addition to the changes in ``sdst.baselines.anchors``: in R2's block, the query first attends to the tokens
of each clip. With one token per clip the attention weight is always 1, so its two projections are left out. The
number of the remaining parameters is the one that Tab. H prints.

``model=last_layer`` is the same with K = 1, for the row "w/o tuning" of Tab. H. *Reading*: the paper prints the size of
R2-Tuning for that row, so the block stays and only reads the last level.
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
    from collections.abc import Mapping, Sequence

    from torch import Tensor


OFFICIAL_NAMES = {
    **{f"adapter.video_map.{i}": f"align_video.{i}" for i in (0, 2, 4, 6)},
    **{f"adapter.query_map.{i}": f"align_text.{i}" for i in (0, 2, 4, 6)},
    "adapter.scale": "refine.scales",
    "adapter.gate": "refine.gates",
    **{
        f"adapter.tem.{kind}_att.{official}": f"refine.layer.{kind}_attention.{ours}"
        for kind in ("cross", "self")
        for official, ours in {"q": "query", "k": "key", "v": "value", "m": "out"}.items()
    },
    "adapter.tem.ffn.mapping.0": "refine.layer.ffn.expand",
    "adapter.tem.ffn.mapping.2": "refine.layer.ffn.contract",
    "adapter.tem.cross_att_norm": "refine.layer.residuals.0.norm",
    "adapter.tem.self_att_norm": "refine.layer.residuals.1.norm",
    "adapter.tem.ffn_norm": "refine.layer.residuals.2.norm",
    "pooling.att.weight": "pool_text.score",
    # Level i of stride 2^i has i halvings, each of which is five modules in the official code.
    **{
        f"pyramid.blocks.{i}.{5 * halving + module}": f"pyramid.levels.{i}.{halving}.{ours}"
        for i in range(1, 4)
        for halving in range(i)
        for module, ours in {1: "conv", 3: "norm"}.items()
    },
    "class_head.module.1": "classify.hidden",
    "class_head.module.3": "classify.out",
    "coord_head.module.1": "regress.hidden",
    "coord_head.module.3": "regress.out",
    "coef": "scales",
}
"""Module or parameter in the official code -> name in ``R2Tuning``; ``weight`` and ``bias`` keep their names."""
OFFICIAL_UNUSED = ("clip.", "adapter.q_map.", "adapter.v_map.", "loss.")
"""Prefixes of unused official weights: the frozen backbone, projections without effect (see above), temperatures."""


class R2Block(nn.Module):
    """The recurrent side network: clips modulated by the query, fused with the level above, and one decoder layer.

    Args:
        levels: K.
        dim: d.
        heads: H.
        ffn_ratio: Hidden width of the feed-forward network, in d.
        drop_path: Probability of dropping a residual update.
        see_padding: Whether the maximum over the query's tokens includes padded tokens, as in the official training.
    """

    def __init__(
        self, levels: int, dim: int, heads: int, ffn_ratio: int, drop_path: float, *, see_padding: bool
    ) -> None:
        super().__init__()
        self.see_padding = see_padding
        self.scales = nn.Parameter(torch.zeros(levels))
        self.gates = nn.Parameter(torch.zeros(levels - 1)) if levels > 1 else None
        # R2's decoder layer (cross-attention to the query, self-attention, feed-forward) equals the dense stream's.
        self.layer = DenseStream(dim, heads, ffn_ratio, drop_path)

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor, positions: Tensor
    ) -> Refined:
        """Refine from the last level to the first, whose query is returned; arguments as in ``AnchorGrounder``."""
        counted = torch.ones_like(text_mask) if self.see_padding else text_mask
        strongest = text.masked_fill(~counted[:, None, :, None], -torch.inf).amax(dim=2)  # (B, K, d)
        # unbind instead of indexing: its gradient is one stack, not a sum of K tensors full of zeros.
        all_clips, all_tokens = video.unbind(1), text.unbind(1)
        refined: Tensor | None = None
        for level in reversed(range(len(all_clips))):
            clips, tokens = all_clips[level], all_tokens[level]
            fused = clips + self.scales[level].tanh() * (clips + strongest[:, level, None])
            if self.gates is not None and refined is not None:
                gate = self.gates[level].sigmoid()
                fused = gate * fused + (1 - gate) * refined
            refined = self.layer(fused, positions, video_mask, tokens, text_mask)[SIGNALS[-1]]
        assert refined is not None
        return Refined(refined, all_tokens[0])


class R2Tuning(AnchorGrounder):
    """R2-Tuning with the options of its official configuration.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K.
        dim: d, the hidden width.
        heads: H, of every attention.
        ffn_ratio: Hidden width of the feed-forward network, in d.
        dropout: Dropout probability before each linear layer of the alignment.
        drop_path: Probability of dropping a residual update.
        strides: Strides of the pyramid's levels, in clips.
        see_padding: Whether padding changes results as in the official training, so that they depend on the batch;
            for comparisons with the official code.
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
        see_padding: bool = False,
    ) -> None:
        require_heads(dim, heads)
        require_at_least(1, levels=levels, ffn_ratio=ffn_ratio)
        require_probabilities(drop_path=drop_path)
        block = R2Block(levels, dim, heads, ffn_ratio, drop_path, see_padding=see_padding)
        super().__init__(
            video_dim,
            text_dim,
            levels,
            block,
            dim=dim,
            dropout=dropout,
            strides=strides,
            see_padding=see_padding,
        )


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``R2Tuning`` (strides 1, 2, 4, 8).

    Raises:
        UserError: A name is neither in ``OFFICIAL_NAMES`` nor ``OFFICIAL_UNUSED``.
    """
    converted = {}
    for name, value in weights.items():
        if name.startswith(OFFICIAL_UNUSED):
            continue
        module, _, leaf = name.rpartition(".")
        if name in OFFICIAL_NAMES:
            # The official code stores the vector that scores tokens for pooling as a matrix of one row.
            converted[OFFICIAL_NAMES[name]] = value.flatten()
        elif module in OFFICIAL_NAMES:
            converted[f"{OFFICIAL_NAMES[module]}.{leaf}"] = value
        else:
            raise UserError(f"unknown weight {name}; give the state dict of the official R2-Tuning model")
    return converted
