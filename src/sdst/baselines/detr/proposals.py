"""SG-DETR's proposals: a pyramid of the encoded clips, and the best of its points as first moments of a decoder.

*Reading*: see ``sdst.baselines.sg_detr`` for the source of every formula.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.decoder import logit
from sdst.baselines.detr.layers import xavier
from sdst.models.checks import require_at_least
from sdst.models.layers import mlp

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (0.05, 0.2, 0.4, 0.85)
"""Width of the moments of each level, from the finest to the coarsest, as shares of the video."""
MARGIN = 0.0125
"""A point's centre and width must be this far from 0 and from 1, as shares of the video."""


class Proposals(NamedTuple):
    """The M best points.

    Attributes:
        content: (B, M, d) embeddings, without gradient.
        logits: (B, M) logit of "is a moment".
        spans: (B, M, 2) centre and width in (0, 1).
        quality: (B, M) logit of the predicted IoU with the true moment.
    """

    content: Tensor
    logits: Tensor
    spans: Tensor
    quality: Tensor


class Level(NamedTuple):
    """Points of one level: (B, A, d) embeddings and their (B, A) mask."""

    points: Tensor
    mask: Tensor


class SeparableConv(nn.Module):
    """Convolution (kernel 3) within each channel, then a linear map across channels; missing points count as zero."""

    def __init__(self, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.within = nn.Conv1d(dim, dim, 3, stride=stride, padding=1, groups=dim, bias=False)
        self.across = nn.Linear(dim, dim, bias=False)
        for weight in (self.within.weight, self.across.weight):
            nn.init.normal_(weight, std=0.01)

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        """Map (B, A, d) with mask (B, A) to (B, ceil(A / stride), d)."""
        x = (points * mask.unsqueeze(-1)).transpose(1, 2)
        result: Tensor = self.across(self.within(x).transpose(1, 2))
        return result


class LevelBlock(nn.Module):
    """Two separable convolutions, each with a LayerNorm, and GELU between them; the first one may halve the length."""

    def __init__(self, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.first, self.second = SeparableConv(dim, stride), SeparableConv(dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, level: Level) -> Level:
        """Map one level to the next."""
        mask = level.mask[:, :: self.stride]
        hidden = F.gelu(self.norm1(self.first(level.points, level.mask)))
        return Level(self.norm2(self.second(hidden, mask)), mask)


class Pyramid(nn.Module):
    """Levels with two points per clip, and with one point per clip, per two clips, and per four clips."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.finer, self.same = LevelBlock(dim), LevelBlock(dim)
        self.coarser, self.coarsest = LevelBlock(dim, stride=2), LevelBlock(dim, stride=2)

    def forward(self, clips: Tensor, mask: Tensor) -> list[Level]:
        """Levels of clips (B, T, d) with mask (B, T), from the finest to the coarsest."""
        level = Level(clips, mask)
        doubled = Level(*(tensor.repeat_interleave(2, dim=1) for tensor in level))
        coarser = self.coarser(level)
        coarsest = self.coarsest(coarser._replace(points=F.gelu(coarser.points)))
        return [self.finer(doubled), self.same(level), coarser, coarsest]


class Selector(nn.Module):
    """Reads class, quality and span of each point, and selects the best points.

    A video with too few points gets further ones that all have the same values.

    Args:
        dim: d.
        num_queries: M.
        prior: Initial class probability.
    """

    def __init__(self, dim: int, num_queries: int, prior: float) -> None:
        super().__init__()
        require_at_least(1, num_queries=num_queries)
        self.num_queries = num_queries
        self.map, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        nn.init.zeros_(self.map.bias)
        self.read_span = mlp(dim, dim, 2, depth=3)
        xavier(self)
        start_at(self.read_span[-1], 0.0, std=0.0)
        self.read_class, self.read_quality = nn.Linear(dim, 1), nn.Linear(dim, 1)
        bias = math.log(prior / (1 - prior))
        start_at(self.read_class, bias)
        start_at(self.read_quality, 2 * bias)

    def forward(self, levels: list[Level]) -> Proposals:
        """Select M points of all levels."""
        anchors, usable = self.anchors([level.mask for level in levels])
        points = torch.cat([level.points for level in levels], dim=1)
        missing = max(0, self.num_queries - points.shape[1])
        points, anchors = F.pad(points, (0, 0, 0, missing)), F.pad(anchors, (0, 0, 0, missing))
        usable = F.pad(usable, (0, missing))
        points = self.norm(self.map(points * usable.unsqueeze(-1)))
        logits, quality = self.read_class(points).squeeze(-1), self.read_quality(points).squeeze(-1)
        scores = (logits.sigmoid() * quality.sigmoid()).masked_fill(~usable, -1)
        best = scores.topk(self.num_queries, dim=1).indices
        start = logit(anchors).masked_fill(~usable.unsqueeze(-1), 0)
        chosen, rows = points.take_along_dim(best.unsqueeze(-1), dim=1), best.unsqueeze(-1)
        return Proposals(
            content=chosen.detach(),
            logits=logits.gather(1, best),
            spans=(start.take_along_dim(rows, dim=1) + self.read_span(chosen)).sigmoid(),
            quality=quality.gather(1, best),
        )

    @staticmethod
    def anchors(masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, A, 2) centre and width of all levels' points, and (B, A) whether a point may be selected."""
        spans = []
        for mask, width in zip(masks, WIDTHS, strict=True):
            index = torch.arange(mask.shape[1], device=mask.device)
            centre = (index + 0.5) / mask.sum(dim=1, keepdim=True)
            spans.append(torch.stack([centre, torch.full_like(centre, width)], dim=-1))
        anchors = torch.cat(spans, dim=1)
        inside = ((anchors > MARGIN) & (anchors < 1 - MARGIN)).all(dim=-1)
        return anchors, inside & torch.cat(masks, dim=1)


def start_at(linear: nn.Module, bias: float, std: float = 0.01) -> None:
    """Initialise a linear layer so that its outputs are close to ``bias``."""
    assert isinstance(linear, nn.Linear)
    nn.init.normal_(linear.weight, std=std)
    nn.init.constant_(linear.bias, bias)
