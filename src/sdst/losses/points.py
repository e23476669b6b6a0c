"""R2-Tuning's moment losses: the assignment of pyramid points to true moments, and the distance of boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sdst.losses.moment import l1_loss, matched_moments, summed
from sdst.spans import cw_to_se

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.types import Anchors

CENTRE_RADIUS = 1.5
"""Largest distance, in strides of the point, of a point from the centre of the moment that it is assigned."""
TOLERANCE = 1e-3
"""Tolerance of comparisons, in clips: moments often begin and end exactly at a point, but are stored as float32."""


def assign_points(anchors: Anchors, moments: Tensor, moment_mask: Tensor, num_clips: Tensor) -> Tensor:
    """Assign each point the true moment that it should predict.

    This is the shortest moment that contains the point, whose centre is close to it (``CENTRE_RADIUS``), and whose
    farther boundary is within the point's reach.

    Args:
        anchors: The A points.
        moments: (B, G, 2) true (centre, width).
        moment_mask: (B, G) true for valid moments.
        num_clips: (B,) duration / clip length.

    Returns:
        (B, A) int64 index in 0..G-1 of the point's moment, -1 if no moment suits it or the video has no such point.
    """
    moments = moments * num_clips.view(-1, 1, 1)
    start, end = cw_to_se(moments).unsqueeze(1).unbind(dim=-1)  # each (B, 1, G), in clips
    position, stride = anchors.position.unsqueeze(1), anchors.stride.unsqueeze(1)  # (A, 1)
    least, most = anchors.reach.unsqueeze(1).unbind(dim=-1)
    nearer = torch.minimum(position - start, end - position)  # (B, A, G)
    farther = torch.maximum(position - start, end - position)
    from_centre = (position - moments[:, None, :, 0]).abs()
    possible = (nearer >= -TOLERANCE) & (from_centre <= CENTRE_RADIUS * stride + TOLERANCE)
    possible &= (farther >= least - TOLERANCE) & (farther <= most + TOLERANCE)
    possible &= moment_mask.unsqueeze(1) & anchors.mask.unsqueeze(2)
    lengths = (end - start).expand_as(possible).masked_fill(~possible, torch.inf)
    shortest = F.pad(lengths, (0, 1), value=torch.inf).min(dim=-1)  # the extra one is the minimum if G = 0
    return shortest.indices.masked_fill(shortest.values.isinf(), -1)


def boundary_loss(
    references: Tensor, moments: Tensor, assignment: Tensor, anchors: Anchors, num_clips: Tensor
) -> Tensor:
    """Mean distance between predicted and true boundaries, in strides of the point.

    Args:
        references: (B, A, 2) predicted (centre, width).
        moments: (B, G, 2) true (centre, width).
        assignment: (B, A) from ``assign_points``.
        anchors: The A points.
        num_clips: (B,) duration / clip length.

    Returns:
        Scalar: mean over both boundaries of all points with a moment; 0 (with a gradient of 0) without any.
    """
    matched = (assignment >= 0).unsqueeze(1)
    pairs = references.unsqueeze(1), matched_moments(moments, assignment.unsqueeze(1))
    strides_per_video = (num_clips.unsqueeze(1) / anchors.stride)[:, None, :, None]  # (B, 1, A, 1)
    predicted, true = (cw_to_se(moment) * strides_per_video for moment in pairs)
    return summed(l1_loss(predicted, true), matched).squeeze(0) / (2 * matched.sum()).clamp(min=1)
