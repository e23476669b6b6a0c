"""Collaborative queries: points that the second head assigns a moment become queries in training (Co-DETR).

Source: Zong et al., DETRs with Collaborative Hybrid Assignments Training, ICCV 2023. *Reading*: see
``sdst.baselines.sg_detr`` for the source of every formula.

Adapted: each sample has ``COUNT`` queries, or all its points if these are fewer. In the repository it has as many as
the sample of its batch with most assigned points, so the batch would change a sample's loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.atss import NEAREST, SIZES
from sdst.baselines.detr.decoder import LEAST
from sdst.baselines.detr.proposals import Proposals
from sdst.losses.moment import matched_moments, summed
from sdst.spans import aligned_giou, cw_to_se

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdst.baselines.detr.atss import Detections
    from sdst.baselines.detr.proposals import Level

COUNT = NEAREST * len(SIZES)
"""Number of queries: the candidates of one moment."""
WEIGHT = 0.5
"""Weight of the losses of these queries, that of the other queries being 1."""


class CollaborativeQueries(nn.Module):
    """Chooses points, and makes queries of their embeddings and anchors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim)
        nn.init.normal_(self.map.weight, std=0.01)

    def forward(
        self, levels: Sequence[Level], found: Detections, assignment: Tensor
    ) -> tuple[Proposals, Tensor]:
        """Return N queries and the (B, N) indices of their points.

        Args:
            levels: Points of all levels.
            found: Results of the second head at these points.
            assignment: (B, A) index of each point's true moment, -1 if it has none.
        """
        chosen = choose(assignment, found.mask)
        rows = chosen.unsqueeze(-1)
        points = torch.cat([level.points for level in levels], dim=1).take_along_dim(rows, dim=1)
        queries = Proposals(
            content=self.norm(self.map(points)),
            logits=found.logits.gather(1, chosen),
            spans=found.anchors.take_along_dim(rows, dim=1).clamp(LEAST, 1 - LEAST),
            quality=found.centre_logits.gather(1, chosen),
        )
        return queries, chosen


def choose(assignment: Tensor, mask: Tensor) -> Tensor:
    """(B, N) points: those with a moment, then others drawn at random, then those that the video lacks.

    Args:
        assignment: (B, A) index of the moment of each point, -1 if it has none.
        mask: (B, A) true where the video has such a point.
    """
    rank = torch.rand(mask.shape, device=mask.device) + (assignment >= 0)
    return rank.masked_fill(~mask, -1).topk(min(COUNT, mask.shape[1]), dim=1).indices


def collaborative_losses(
    logits: Tensor, references: Tensor, assigned: Tensor, exists: Tensor, moments: Tensor
) -> dict[str, Tensor]:
    """Losses of the collaborative queries after each decoder layer, each (K,) and weighted by ``WEIGHT``.

    ``cls`` is the cross-entropy of the class, averaged over all these queries; ``l1`` the mean distance of start and
    end, and ``iou`` the mean of 1 - generalised IoU, over those with a moment, 0 without any.

    Args:
        logits: (B, K, N) logit of "is a moment".
        references: (B, K, N, 2) predicted (centre, width).
        assigned: (B, N) index of the true moment of each query's point, -1 if it has none.
        exists: (B, N) true where the video has the point.
        moments: (B, G, 2) true (centre, width).
    """
    matched, exists = ((x.unsqueeze(1).expand_as(logits)) for x in (assigned >= 0, exists))
    true = matched_moments(moments, assigned.unsqueeze(1)).expand_as(references)
    predicted, wanted = cw_to_se(references), cw_to_se(true)
    count = matched[:, 0].sum().clamp(min=1)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, matched.to(logits.dtype), reduction="none")
    return {
        "cls": WEIGHT * summed(cross_entropy, exists) / exists[:, 0].sum(),
        "l1": WEIGHT * summed((predicted - wanted).abs().mean(dim=-1), matched) / count,
        "iou": WEIGHT * summed(1 - aligned_giou(predicted, wanted), matched) / count,
    }
