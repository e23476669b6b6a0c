"""The decoder of BAM-DETR: queries are an anchor point and its distances to start and end, refined in turn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.decoder import DabLayer, logit
from sdst.baselines.detr.layers import FeedForward, xavier
from sdst.models.checks import require_at_least
from sdst.models.interpolation import interpolate_sum
from sdst.models.layers import Dropout, interleaved, mlp
from sdst.spans import se_to_cw

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.baselines.detr.layers import LayerSizes

POINTS = 4
"""Points that a head reads around a boundary."""
SIDES = ("start", "end")


class Bounded(NamedTuple):
    """Moments of every decoder layer, and what the clips say about boundaries.

    Attributes:
        quality: (B, K, M) logit of the moment's overlap with a true one.
        spans: (B, K, M, 2) centre and width; a moment may reach beyond the video.
        boundaries: (B, T, 2) in [0, 1), how much each clip looks like a start and like an end.
    """

    quality: Tensor
    spans: Tensor
    boundaries: Tensor


class BoundaryFeatures(nn.ModuleList):
    """Two convolutions along clips and one of each clip, each with ReLU; clips that do not exist stay zero."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Conv1d(dim, dim, width, padding=width // 2) for width in (3, 3, 1))

    def forward(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Map clips (B, T, d) with their mask (B, T) to (B, T, d)."""
        exists, x = mask.unsqueeze(1), clips.transpose(1, 2)
        for conv in self:
            x = F.relu(conv(x * exists))
        return x.transpose(1, 2)


class BoundaryLayer(nn.Module):
    """A query's content for one boundary reads clips around that boundary, then passes a feed-forward network.

    Args:
        sizes: Sizes of every layer; updates are not dropped as a whole.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        dim, self.heads = sizes.dim, sizes.heads
        self.offsets, self.weights = nn.Linear(dim, POINTS * self.heads), nn.Linear(dim, POINTS * self.heads)
        self.value, self.out = nn.Linear(2 * dim, dim), nn.Linear(dim, dim)
        self.ffn = FeedForward(dim, sizes.ffn_ratio, sizes.dropout, nn.PReLU())
        self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(sizes.dropout)
        nn.init.zeros_(self.weights.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(torch.arange(1, POINTS + 1).repeat(self.heads))

    def forward(self, content: Tensor, boundary: Tensor, clips: Tensor, count: Tensor) -> Tensor:
        """Refine content (B, M, d).

        Args:
            content: (B, M, d).
            boundary: (B, M) place of the boundary, as a share of the video.
            clips: (B, T, 2d) encoded clips beside their boundary features.
            count: (B,) number of valid clips.
        """
        values = self.value(clips).unflatten(-1, (self.heads, -1))
        offsets, weights = (
            layer(content).unflatten(-1, (self.heads, POINTS)).float()
            for layer in (self.offsets, self.weights)
        )
        count = count.view(-1, 1, 1, 1)
        # Share 0 is the first clip and share 1 the last one.
        places = (boundary[..., None, None] + offsets / count) * (count - 1)
        read = interpolate_sum(values, places, weights.softmax(dim=-1), count.flatten(), outside="clamp")
        # The official code puts channels before heads here.
        update = self.out(read.transpose(2, 3).flatten(2))
        content = self.norm2(content + self.dropout(update))
        result: Tensor = self.norm3(content + self.dropout(self.ffn(content)))
        return result


class Clips(NamedTuple):
    """The clips that queries read.

    Attributes:
        memory: (B, T, d) encoded clips.
        sides: For start and end (B, T, 2d), the encoded clips beside their features for that boundary.
        positions: (B, T, d).
        mask: (B, T) true for valid clips.
        lengths: (B,) number of valid clips.
    """

    memory: Tensor
    sides: list[Tensor]
    positions: Tensor
    mask: Tensor
    lengths: Tensor


class AnchorAndBoundaries(nn.Module):
    """One decoder layer: it refines the anchor, then both distances with the new anchor.

    Args:
        sizes: Sizes of every layer.
        is_first: Whether it is the first layer.
    """

    def __init__(self, sizes: LayerSizes, *, is_first: bool) -> None:
        super().__init__()
        self.anchor = DabLayer(sizes, is_first=is_first)
        self.sides = nn.ModuleList(BoundaryLayer(sizes) for _ in SIDES)
        heads = [mlp(sizes.dim, sizes.dim, 1, depth=3) for _ in range(3)]
        self.refine = nn.ModuleList(heads)
        xavier(self)
        for head in heads:
            for parameter in head[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, content: list[Tensor], references: Tensor, place: Tensor, sine: Tensor, clips: Clips
    ) -> tuple[list[Tensor], Tensor]:
        """Refine a query's three contents (B, M, d) and its references (B, M, 3), which are returned.

        Args:
            content: Content of the anchor, the start and the end.
            references: Anchor and its distances to start and end, as shares of the video.
            place: (B, M, d) learned embedding of the moment.
            sine: (B, M, d) sines of its centre, modulated by content.
            clips: The clips.
        """
        centre = self.anchor(content[0], place, sine, clips.memory, clips.positions, clips.mask)
        anchor = (self.refine[0](centre) + logit(references[..., :1])).sigmoid()
        # The boundaries take the new anchor and their distances as constants.
        given = torch.cat([anchor, logit(references[..., 1:]).sigmoid()], dim=2).detach()
        boundaries = bounds(given).clamp(0, 1)
        edges = [
            layer(content[1 + side], boundaries[..., side], clips.sides[side], clips.lengths)
            for side, layer in enumerate(self.sides)
        ]
        changes = torch.cat([self.refine[1 + side](edge) for side, edge in enumerate(edges)], dim=2)
        distances = (changes + logit(given[..., 1:])).sigmoid()
        return [centre, *edges], torch.cat([anchor, distances], dim=2)


class BoundaryDecoder(nn.Module):
    """Refines M learned anchors and their distances to start and end, and reads the quality of each moment.

    Args:
        sizes: Sizes of every layer.
        layers: K.
        num_queries: M.
    """

    def __init__(self, sizes: LayerSizes, *, layers: int, num_queries: int) -> None:
        super().__init__()
        require_at_least(1, decoder_layers=layers, num_queries=num_queries)
        self.dim = dim = sizes.dim
        self.features = nn.ModuleList(BoundaryFeatures(dim) for _ in SIDES)
        self.layers = nn.ModuleList(
            AnchorAndBoundaries(sizes, is_first=index == 0) for index in range(layers)
        )
        self.embed_place, self.scale_sine = mlp(2 * dim, 2 * dim, dim, depth=2), mlp(dim, dim, dim, depth=2)
        self.width_ratio = mlp(dim, dim, 1, depth=2)
        for part in (self.features, self.embed_place, self.scale_sine, self.width_ratio):
            xavier(part)
        self.read_quality = mlp(3 * dim, dim, 1, depth=3)
        self.queries = nn.Parameter(inside_video(torch.randn(num_queries, 3)))
        self.content = nn.Parameter(torch.randn(num_queries, 3 * dim))

    def forward(self, memory: Tensor, fused: Tensor, positions: Tensor, mask: Tensor) -> Bounded:
        """Decode encoded clips.

        Args:
            memory: (B, T, d) encoded clips.
            fused: (B, T, d) clips with words, before they were encoded.
            positions: (B, T, d) of the clips.
            mask: (B, T) true for valid clips.
        """
        features = [layers(fused, mask) for layers in self.features]
        sides = [torch.cat([memory, side], dim=2) for side in features]
        clips = Clips(memory, sides, positions, mask, mask.sum(dim=1).float())
        references = inside_video(self.queries).sigmoid().expand(len(memory), -1, -1)
        content = list(self.content.expand(len(memory), -1, -1).chunk(3, dim=2))
        states, spans = [], []
        for index, layer in enumerate(self.layers):
            centre, width = se_to_cw(bounds(references).clamp(0, 1)).unbind(dim=2)
            sines = [interleaved(2 * math.pi * x, self.dim).to(memory.dtype) for x in (centre, width)]
            place, sine = self.embed_place(torch.cat(sines, dim=2)), sines[0]
            if index > 0:
                sine = sine * self.scale_sine(content[0])
            sine = sine * self.width_ratio(content[0]).sigmoid() / width.unsqueeze(2)
            content, refined = layer(content, references, place, sine, clips)
            spans.append(se_to_cw(bounds(refined)))
            states.append(torch.cat([content[0], *(edge - content[0] for edge in content[1:])], dim=2))
            references = torch.cat([logit(refined[..., :1]).sigmoid(), refined[..., 1:]], dim=2).detach()
        return Bounded(
            self.read_quality(torch.stack(states, dim=1)).squeeze(-1),
            torch.stack(spans, dim=1),
            torch.stack([side.float().tanh().mean(dim=2) for side in features], dim=2),
        )


def bounds(references: Tensor) -> Tensor:
    """Start and end (..., 2) of anchors with their distances to both (..., 3)."""
    return torch.stack(
        [references[..., 0] - references[..., 1], references[..., 0] + references[..., 2]], dim=-1
    )


def inside_video(queries: Tensor) -> Tensor:
    """Shorten distances that lead out of the video; queries (M, 3) are logits of anchor and both distances.

    Gradients pass as if nothing were shortened, as in the official code. That code overwrites its parameter in every
    forward pass, so its next update starts from the shortened distance, and ours from the stored one.
    """
    anchor = queries[:, :1]
    longest = torch.cat([anchor, anchor, logit(1 - anchor.sigmoid())], dim=1)
    return queries.minimum(longest).detach() + (queries - queries.detach())
