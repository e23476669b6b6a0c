"""The DAB decoder of QD-, CG- and TR-DETR: queries are (centre, width) references, refined from layer to layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from sdst.baselines.detr.layers import Drop, FeedForward, attend, xavier
from sdst.models.checks import require_at_least
from sdst.models.layers import Dropout, interleaved, mlp

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.baselines.detr.layers import LayerSizes

LEAST = 1e-3
"""Smallest share of which ``logit`` is taken."""


class Decoded(NamedTuple):
    """Moments of every decoder layer.

    Attributes:
        logits: (B, K, M, 2) logits of "is a moment" and "is not".
        spans: (B, K, M, 2) centre and width in (0, 1).
    """

    logits: Tensor
    spans: Tensor


def foreground(logits: Tensor) -> Tensor:
    """(...) logit of "is a moment" from two (..., 2): the softmax of two logits is the sigmoid of their difference."""
    return logits[..., 0] - logits[..., 1]


def logit(share: Tensor) -> Tensor:
    """Inverse of the sigmoid, for shares kept ``LEAST`` away from 0 and 1."""
    return share.clamp(min=LEAST).log() - (1 - share).clamp(min=LEAST).log()


class DabLayer(nn.Module):
    """Self-attention of the queries, conditional cross-attention to the clips, feed-forward network.

    Args:
        sizes: Sizes of every layer.
        is_first: Whether cross-attention also adds the positions, as only the first layer does.
    """

    def __init__(self, sizes: LayerSizes, *, is_first: bool) -> None:
        super().__init__()
        dim, self.heads = sizes.dim, sizes.heads
        self.self_query, self.self_key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.self_query_place, self.self_key_place = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.self_value, self.self_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_query, self.cross_key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_query_place = nn.Linear(dim, dim) if is_first else None
        self.cross_query_sine, self.cross_key_place = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.cross_value, self.cross_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.ffn = FeedForward(dim, sizes.ffn_ratio, sizes.dropout, nn.PReLU())
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout, self.drop = Dropout(sizes.dropout), Drop(sizes.dropout, sizes.drop_path)

    def forward(
        self,
        content: Tensor,
        place: Tensor,
        sine: Tensor,
        memory: Tensor,
        positions: Tensor,
        mask: Tensor,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Refine the queries' content (B, M, d).

        Args:
            content: (B, M, d).
            place: (B, M, d) learned embedding of the references.
            sine: (B, M, d) sines of the references, modulated by content.
            memory: (B, T, d) encoded clips.
            positions: (B, T, d) of the clips.
            mask: (B, T) true for valid clips.
            query_mask: (B, M) true for queries that others may attend to; None for all.
        """
        query = self.self_query(content) + self.self_query_place(place)
        key = self.self_key(content) + self.self_key_place(place)
        value = self.self_value(content)
        update = self.self_out(attend(query, key, value, self.heads, query_mask, self.dropout))
        content = self.norm1(content + self.drop(update))

        query, key, key_place = (
            self.cross_query(content),
            self.cross_key(memory),
            self.cross_key_place(positions),
        )
        if self.cross_query_place is not None:
            query, key = query + self.cross_query_place(place), key + key_place
        # Each head sees its part of the content beside its part of the position.
        query, key = (
            torch.cat([x.unflatten(-1, (self.heads, -1)) for x in pair], dim=-1).flatten(2)
            for pair in ((query, self.cross_query_sine(sine)), (key, key_place))
        )
        update = self.cross_out(attend(query, key, self.cross_value(memory), self.heads, mask, self.dropout))
        content = self.norm2(content + self.drop(update))
        result: Tensor = self.norm3(content + self.drop(self.ffn(content)))
        return result


class DabDecoder(nn.Module):
    """Refines M learned references layer by layer, and reads moments and their class after each layer.

    Args:
        sizes: Sizes of every layer.
        layers: K.
        num_queries: M.
    """

    def __init__(self, sizes: LayerSizes, *, layers: int, num_queries: int) -> None:
        super().__init__()
        require_at_least(1, decoder_layers=layers, num_queries=num_queries)
        self.dim = dim = sizes.dim
        self.layers = nn.ModuleList(DabLayer(sizes, is_first=index == 0) for index in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.embed_place, self.scale_sine = mlp(dim, dim, dim, depth=2), mlp(dim, dim, dim, depth=2)
        self.width_ratio = mlp(dim, dim, 1, depth=2)
        self.refine = mlp(dim, dim, 2, depth=3)
        xavier(self)
        # As in the official code, the refinement starts with Xavier matrices, but without the last bias.
        last = self.refine[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.bias)
        self.queries = nn.Parameter(torch.randn(num_queries, 2))
        self.read_span, self.read_class = mlp(dim, dim, 2, depth=3), nn.Linear(dim, 2)

    def forward(self, memory: Tensor, positions: Tensor, mask: Tensor) -> Decoded:
        """Decode encoded clips (B, T, d) with positions (B, T, d) and mask (B, T)."""
        references = self.queries.sigmoid().expand(len(memory), -1, -1)
        content = torch.zeros(*references.shape[:2], self.dim, dtype=memory.dtype, device=memory.device)
        logits, spans = [], []
        for index, layer in enumerate(self.layers):
            # Spans pass gradients on to the refinement before, but positions do not.
            given = references if index == 0 else references.detach()
            centre, width = (2 * math.pi * given).unbind(dim=-1)
            sine = torch.cat([interleaved(x, self.dim // 2) for x in (centre, width)], dim=-1).to(
                content.dtype
            )
            place = self.embed_place(sine)
            if index > 0:
                sine = sine * self.scale_sine(content)
            sine = sine * self.width_ratio(content).sigmoid() / given[..., 1:]
            content = layer(content, place, sine, memory, positions, mask)
            state = self.norm(content)
            logits.append(self.read_class(state))
            spans.append((self.read_span(state) + logit(references)).sigmoid())
            if index + 1 < len(self.layers):
                references = (self.refine(content) + logit(given)).sigmoid()
        return Decoded(torch.stack(logits, dim=1), torch.stack(spans, dim=1))
