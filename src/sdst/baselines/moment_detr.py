"""Moment-DETR: an encoder over clips and words, and learned queries (``model=moment_detr``).

Source: Lei et al., QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries, NeurIPS 2021,
and its official code: with the official weights (``convert_official``), outputs, losses and gradients are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import torch
from torch import nn

from sdst.baselines.detr.criterion import DetrOutput, SetCriterion
from sdst.baselines.detr.decoder import foreground
from sdst.baselines.detr.layers import Attention, EncoderLayer, TransformerLayer, xavier
from sdst.baselines.detr.model import DetrModel, Options
from sdst.baselines.detr.official import PROJECTIONS, encoder_names, renamed
from sdst.models.checks import require_at_least
from sdst.models.layers import mlp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.types import Batch

OFFICIAL_NAMES = {
    **PROJECTIONS,
    **encoder_names(r"transformer\.encoder", "encoder"),
    r"transformer\.decoder\.layers\.(\d+)\.multihead_attn": r"decoder.\1.cross_attn",
    **encoder_names(r"transformer\.decoder", "decoder"),
    r"transformer\.decoder\.norm": "norm",
    r"query_embed\.weight": "queries",
    "span_embed": "read_span",
    "class_embed": "read_class",
    "saliency_proj": "read_saliency",
}
"""Pattern of the official code's names -> name in ``MomentDETR``."""
OFFICIAL_UNUSED = ("txt_position_embed.", "contrastive_align_")
"""Beginnings of official names without effect: positions of words, projections of a loss that is off."""


class DecoderLayer(TransformerLayer):
    """Self-attention of the queries, cross-attention to the memory, feed-forward network; arguments as in its base."""

    def __init__(
        self, dim: int, heads: int, ffn_ratio: int, dropout: float, drop_path: float, activation: nn.Module
    ) -> None:
        super().__init__(dim, heads, ffn_ratio, dropout, drop_path, activation)
        self.cross_attn, self.norm3 = Attention(dim, heads, dropout), nn.LayerNorm(dim)

    def forward(
        self, content: Tensor, queries: Tensor, memory: Tensor, positions: Tensor, mask: Tensor
    ) -> Tensor:
        """Refine content (B, M, d) of learned queries (M, d) with the memory (B, N, d), its positions and mask."""
        placed = content + queries
        content = self.norm1(content + self.drop(self.self_attn(placed, placed, content)))
        update = self.cross_attn(content + queries, memory + positions, memory, mask)
        content = self.norm2(content + self.drop(update))
        result: Tensor = self.norm3(content + self.drop(self.ffn(content)))
        return result


class MomentDETR(DetrModel):
    """Moment-DETR with the options of its official configuration.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers.
        num_queries: M.
        options: Options of every ``DetrModel``.
    """

    criterion = SetCriterion

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        num_queries: int = 10,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(video_dim, text_dim, levels, **options)
        require_at_least(
            1, encoder_layers=encoder_layers, decoder_layers=decoder_layers, num_queries=num_queries
        )
        dim = self.sizes.dim
        self.encoder = nn.ModuleList(EncoderLayer(*self.sizes, nn.ReLU()) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*self.sizes, nn.ReLU()) for _ in range(decoder_layers))
        xavier(self.encoder)
        xavier(self.decoder)
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(torch.randn(num_queries, dim))
        self.read_span, self.read_class = mlp(dim, dim, 2, depth=3), nn.Linear(dim, 2)
        self.read_saliency = nn.Linear(dim, 1)

    def ground(self, given: Aligned, labels: Batch | None) -> DetrOutput:
        """Ground aligned words in aligned clips."""
        memory = torch.cat([given.clips, given.words], dim=1)
        positions = torch.cat([given.positions, torch.zeros_like(given.words)], dim=1)
        mask = torch.cat([given.clip_mask, given.word_mask], dim=1)
        for layer in self.encoder:
            memory = layer(memory, positions, mask)

        content = torch.zeros_like(self.queries).expand(len(memory), -1, -1)
        states = []
        for layer in self.decoder:
            content = layer(content, self.queries, memory, positions, mask)
            states.append(self.norm(content))
        state = torch.stack(states, dim=1)  # (B, K, M, d)
        num_clips = given.clips.shape[1]
        clips = memory[:, :num_clips]
        return DetrOutput(
            class_logits=foreground(self.read_class(state)),
            references=self.read_span(state).sigmoid(),
            saliency=self.read_saliency(clips).squeeze(-1),
            dense=clips,
            query=memory[:, num_clips],
            video=given.clips.unsqueeze(1),
            text=given.words[:, :1],
        )


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``MomentDETR``.

    Raises:
        UserError: A name is unknown.
    """
    return renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED)
