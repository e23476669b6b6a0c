"""SG-DETR's second head: a moment from every point of the pyramid, and which points belong to which true moment (ATSS).

Source: Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection, CVPR 2020, in one dimension. *Reading*: see ``sdst.baselines.sg_detr`` for the source of every formula.

Kept, although one would expect otherwise: the anchor of a point of size s is s - 1 clips wide, and the logarithm that
the head predicts is that of (width + 1) / s.

Adapted:

* Padded points are never read, assigned or trained; in the repository they are anchors like others.
* True moments keep their bounds; the repository cuts them down to whole seconds.
* The narrowest moment that the head predicts has width 0; in the repository the end may come before the start.
* If points are equally far from a moment, the earlier ones count as nearer.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sdst.losses.moment import focal_errors, matched_moments
from sdst.losses.points import TOLERANCE
from sdst.spans import aligned_giou, cw_to_se, pairwise_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdst.baselines.detr.proposals import Level
    from sdst.types import Batch, Output

STRIDES = (0.5, 1.0, 2.0, 4.0)
"""Distance of neighbouring points of each level, from the finest to the coarsest, in clips."""
SIZES = (4.0, 16.0, 32.0, 64.0)
"""Size of the anchors of each level, in clips."""
NEAREST = 12
"""Number of points per level that may be assigned a moment."""
DEPTH = 3
"""Number of convolutions before those that read the results."""
SCALES = (10.0, 5.0)
"""Factors by which predicted shifts of the centre, and logarithms of the width, are larger than those applied."""
MOST = math.log(1000 / 16)
"""Largest logarithm of the width that is applied."""


class Detections(NamedTuple):
    """One moment per point of all levels; spans are shares of the clips that were read.

    Attributes:
        logits: (B, A) logit of "is a moment".
        references: (B, A, 2) centre and width; they may lie outside the video.
        centre_logits: (B, A) logit of the predicted centre-ness, see ``centreness``.
        anchors: (B, A, 2) centre and width before the head moves them.
        mask: (B, A) true where the video has such a point.
    """

    logits: Tensor
    references: Tensor
    centre_logits: Tensor
    anchors: Tensor
    mask: Tensor


class Tower(nn.Module):
    """Convolutions (kernel 3) along the points of one level, each with LayerNorm and ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1, bias=False) for _ in range(DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(DEPTH))

    def forward(self, level: Level) -> Level:
        """Map the (B, A, d) points of a level to (B, A, d)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            level = level._replace(points=F.relu(norm(convolved(conv, level))))
        return level


class AtssHead(nn.Module):
    """Reads class, centre-ness and span from every point; all levels share the convolutions.

    Args:
        dim: d.
        prior: Initial class probability.
    """

    def __init__(self, dim: int, prior: float) -> None:
        super().__init__()
        self.classify, self.regress = Tower(dim), Tower(dim)
        self.read_class, self.read_span, self.read_centre = (
            nn.Conv1d(dim, width, 3, padding=1) for width in (1, 2, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=0.01)
        for conv, start in (
            (self.read_class, math.log(prior / (1 - prior))),
            (self.read_span, 0),
            (self.read_centre, 0),
        ):
            assert conv.bias is not None
            nn.init.constant_(conv.bias, start)
        self.scales = nn.Parameter(torch.ones(len(SIZES)))

    def forward(self, levels: Sequence[Level], clip_mask: Tensor) -> Detections:
        """Detect moments at the points of all levels, from clips with mask (B, T); all results are float32."""
        logits, moves, centre_logits, places = [], [], [], []
        for level, scale, stride, wide in zip(levels, self.scales, STRIDES, SIZES, strict=True):
            logits.append(convolved(self.read_class, self.classify(level)))
            regressed = self.regress(level)
            moves.append(scale * convolved(self.read_span, regressed))
            centre_logits.append(convolved(self.read_centre, regressed))
            place = (torch.arange(level.points.shape[1], device=clip_mask.device) + 0.5) * stride
            places.append(torch.stack([place, torch.full_like(place, wide)], dim=-1))
        centre, size = torch.cat(places).unbind(dim=-1)  # (A,), in clips
        shift, log_ratio = (
            move / scale
            for move, scale in zip(torch.cat(moves, dim=1).float().unbind(dim=-1), SCALES, strict=True)
        )
        width = (log_ratio.clamp(max=MOST).exp() * size - 1).clamp(min=0)
        num_clips = clip_mask.sum(dim=1).view(-1, 1, 1)
        return Detections(
            logits=torch.cat(logits, dim=1).squeeze(-1).float(),
            references=torch.stack([centre + shift * size, width], dim=-1) / num_clips,
            centre_logits=torch.cat(centre_logits, dim=1).squeeze(-1).float(),
            anchors=torch.stack([centre, size - 1], dim=-1) / num_clips,
            mask=torch.cat([level.mask for level in levels], dim=1),
        )


def convolved(conv: nn.Module, level: Level) -> Tensor:
    """Apply a convolution to the (B, A, d) points of a level; missing points count as zero."""
    result: Tensor = conv((level.points * level.mask.unsqueeze(-1)).transpose(1, 2))
    return result.transpose(1, 2)


def level_sizes(clips: int) -> list[int]:
    """Number of points of each level of ``proposals.Pyramid`` over so many clips."""
    return [2 * clips, clips, -(-clips // 2), -(-clips // 4)]


def assign_anchors(anchors: Tensor, mask: Tensor, clips: int, batch: Batch) -> Tensor:
    """Assign points to true moments.

    Candidates are the ``NEAREST`` points of each level whose centres are nearest to the moment's. Of these, a point
    gets the moment if its centre lies inside the moment and their IoU is at least the mean plus the standard deviation
    of all candidates' IoUs. A point that several moments suit gets the one with the highest IoU.

    Args:
        anchors: (B, A, 2) centre and width, as shares of the video.
        mask: (B, A) true where the video has such a point.
        clips: Number of clips under the pyramid.
        batch: The batch with its labels.

    Returns:
        (B, A) int64 index in 0..G-1 of the point's moment, -1 if it has none.
    """
    num_clips = batch.num_clips.view(-1, 1, 1)
    anchors, moments, exists = anchors * num_clips, batch.moments * num_clips, mask.unsqueeze(2)
    distance = (anchors[:, :, None, 0] - moments[:, None, :, 0]).abs().masked_fill(~exists, torch.inf)
    by_level = torch.split(distance, level_sizes(clips), dim=1)
    ranks = [level.argsort(dim=1, stable=True).argsort(dim=1) for level in by_level]
    near = (torch.cat(ranks, dim=1) < NEAREST) & exists  # (B, A, G)
    iou = pairwise_iou(cw_to_se(anchors), cw_to_se(moments))
    count = near.sum(dim=1, keepdim=True)  # at least one per level
    mean = (iou * near).sum(dim=1, keepdim=True) / count
    deviation = (((iou - mean) ** 2 * near).sum(dim=1, keepdim=True) / (count - 1)).sqrt()
    start, end = cw_to_se(moments).unsqueeze(1).unbind(dim=-1)
    inside = torch.minimum(anchors[..., :1] - start, end - anchors[..., :1]) > TOLERANCE
    suits = near & (iou >= mean + deviation) & inside & batch.moment_mask.unsqueeze(1)
    iou = F.pad(iou.masked_fill(~suits, -1), (0, 1), value=-1)  # the extra one is the maximum if G = 0
    best = iou.max(dim=-1)
    return best.indices.masked_fill(best.values < 0, -1)


def centreness(anchors: Tensor, moments: Tensor) -> Tensor:
    """Distance of a point from the nearer bound of its moment, divided by that from the farther one; 1 in the middle.

    Args:
        anchors: (..., 2) anchor of the point.
        moments: (..., 2) (centre, width) of the moment that contains it.
    """
    start, end = cw_to_se(moments).unbind(dim=-1)
    before, after = anchors[..., 0] - start, end - anchors[..., 0]
    return torch.minimum(before, after) / torch.maximum(before, after)


def atss_losses(output: Output, anchors: Tensor, assignment: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Losses of the second head.

    ``cls`` is the focal loss of all points, divided by the number of assigned ones; ``act`` the cross-entropy of the
    centre-ness of these, averaged. ``l1``, the smooth L1 distance of start plus that of end in clips, and ``iou``,
    1 - generalised IoU, are means over these, weighted by centre-ness. Without assigned points, all but ``cls`` are 0.

    Args:
        output: Output with a second head.
        anchors: (B, A, 2) as for ``assign_anchors``, like the next one.
        assignment: (B, A) from ``assign_anchors``.
        batch: The batch with its labels.
    """
    assert output.second_logits is not None
    assert output.second_references is not None
    assert output.second_centre_logits is not None
    assert output.second_mask is not None
    matched, exists = assignment >= 0, output.second_mask.bool()
    true = matched_moments(batch.moments, assignment.unsqueeze(1)).squeeze(1)
    count = matched.sum().clamp(min=1)
    # Unmatched points get a moment around themselves, so that nothing is divided by 0.
    target = centreness(anchors, anchors.where(~matched.unsqueeze(-1), true)) * matched
    share = target / target.sum().clamp(min=TOLERANCE)
    predicted, wanted = cw_to_se(output.second_references), cw_to_se(true)
    per_video = batch.num_clips.view(-1, 1, 1)
    distance = F.smooth_l1_loss(predicted * per_video, wanted * per_video, reduction="none").sum(dim=-1)
    cross_entropy = F.binary_cross_entropy_with_logits(output.second_centre_logits, target, reduction="none")
    return {
        "cls": (focal_errors(output.second_logits, matched) * exists).sum() / count,
        "l1": (distance * share).sum(),
        "iou": ((1 - aligned_giou(predicted, wanted)) * share).sum(),
        "act": (cross_entropy * matched).sum() / count,
    }
