"""Sampling clip features at fractional positions: the one interpolation behind RDSA (eq. 9-10) and RoI-align.

A weighted sum of table rows, ``embedding_bag``, instead of ``grid_sample``: same values, no copy of the clips read, and
a backward pass that PyTorch can make deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class ClipAxis:
    """Where the clips of each video lie.

    Attributes:
        mask: (B, T) true where a clip exists.
        count: (B,) float32 number of clips that exist.
        extent: (B,) float32 video duration / clip length; equals ``count`` unless the last clip is a part.
    """

    mask: Tensor
    count: Tensor
    extent: Tensor

    def position(self, time: Tensor) -> Tensor:
        """Times (B, ...) divided by the duration to clip positions: clip t covers [t, t + 1], centre at t."""
        return time * self.extent.view(-1, *[1] * (time.dim() - 1)) - 0.5

    def time(self) -> Tensor:
        """(B, T) times of the clips' centres divided by the duration; positions 0, 1, 2, ... map back."""
        positions = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (positions + 0.5) / self.extent.unsqueeze(1)


def interpolate(
    values: Tensor, positions: Tensor, count: Tensor, *, outside: Literal["clamp", "zero"]
) -> Tensor:
    """Linear interpolation between neighbouring clips.

    Args:
        values: (N, T, C) features.
        positions: (N, S) float32 positions on the clip axis, 0 at the centre of the first clip.
        count: (N,) float32 number of valid clips; what lies behind it is never read.
        outside: A position before the first or behind the last valid clip reads that clip (``clamp``), or fades
            to zero within one clip (``zero``, as ``grid_sample`` pads).

    Returns:
        (N, S, C) in the type of ``values``. Gradients flow to values and positions.
    """
    weights = torch.ones_like(positions)[..., None, None]
    read = interpolate_sum(values.unsqueeze(2), positions[..., None, None], weights, count, outside=outside)
    return read.squeeze(2)


def interpolate_sum(
    values: Tensor, positions: Tensor, weights: Tensor, count: Tensor, *, outside: Literal["clamp", "zero"]
) -> Tensor:
    """Sum over P positions of weight times interpolated clip, for each of H heads on its own.

    Args:
        values: (N, T, H, C) features.
        positions: (N, S, H, P), ``weights`` (N, S, H, P), both float32.
        weights: Of the positions.
        count: (N,) and ``outside``, as of :func:`interpolate`.
        outside: See there.

    Returns:
        (N, S, H, C) in the type of ``values``. Gradients flow to values, positions and weights.
    """
    samples, clips, heads, width = values.shape
    last = (count - 1).view(-1, 1, 1, 1)
    # Behind one clip beyond the video everything is zero; without that bound the indices would overflow.
    margin = 0 if outside == "clamp" else 2
    positions = positions.clamp(min=-margin).minimum(last + margin)
    left = positions.detach().floor()
    fraction = positions - left
    index = torch.stack([left, left + 1], dim=-1)  # (N, S, H, P, 2)
    share = torch.stack([1 - fraction, fraction], dim=-1) * weights.unsqueeze(-1)
    last = last.unsqueeze(-1)
    if outside == "zero":
        share = share * ((index >= 0) & (index <= last))
    # Whole numbers stay in the table whatever a NaN became; its weight is NaN and shows in the result.
    index = index.long().clamp(min=0).minimum(last.long())
    first = torch.arange(samples, device=index.device).view(-1, 1, 1, 1, 1) * clips
    rows = (first + index) * heads + torch.arange(heads, device=index.device).view(-1, 1, 1)
    num_bags = positions.shape[:3].numel()
    read = F.embedding_bag(
        rows.view(num_bags, -1),
        values.reshape(-1, width),
        mode="sum",
        per_sample_weights=share.view(num_bags, -1).to(values.dtype),
    )
    return read.view(*positions.shape[:3], width)
