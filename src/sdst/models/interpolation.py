"""Sampling of clip features at fractional positions, for RDSA (eq. 9-10) and for RoI-align.

It uses ``embedding_bag``, a weighted sum of table rows, instead of ``grid_sample``: the values are the same, the clips
read are not copied, and PyTorch can make the backward pass deterministic.
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
    """Positions of the clips of each video.

    Attributes:
        mask: (B, T) true where a clip exists.
        count: (B,) float32 number of clips that exist.
        extent: (B,) float32 video duration / clip length; equals ``count`` unless the last clip is cut short.
    """

    mask: Tensor
    count: Tensor
    extent: Tensor

    def position(self, time: Tensor) -> Tensor:
        """Convert normalised times (B, ...) to clip positions; the centre of clip t is at position t."""
        return time * self.extent.view(-1, *[1] * (time.dim() - 1)) - 0.5

    def time(self) -> Tensor:
        """Return the (B, T) normalised times of the clips' centres; :meth:`position` maps them to 0, 1, 2, ..."""
        positions = torch.arange(self.mask.shape[1], device=self.mask.device)
        return (positions + 0.5) / self.extent.unsqueeze(1)


def interpolate(
    values: Tensor, positions: Tensor, count: Tensor, *, outside: Literal["clamp", "zero"]
) -> Tensor:
    """Linear interpolation between neighbouring clips.

    Args:
        values: (N, T, C) features.
        positions: (N, S) float32 positions on the clip axis, 0 at the centre of the first clip.
        count: (N,) float32 number of valid clips; later clips are never read.
        outside: Result at positions before the first or after the last valid clip: that clip (``clamp``), or a value
            that fades to zero within one clip (``zero``, as ``grid_sample`` pads).

    Returns:
        (N, S, C) in the type of ``values``. Gradients flow to values and positions.
    """
    weights = torch.ones_like(positions)[..., None, None]
    read = interpolate_sum(values.unsqueeze(2), positions[..., None, None], weights, count, outside=outside)
    return read.squeeze(2)


def interpolate_sum(
    values: Tensor, positions: Tensor, weights: Tensor, count: Tensor, *, outside: Literal["clamp", "zero"]
) -> Tensor:
    """Sum over P positions of weight times interpolated clip, separately for each of H heads.

    Args:
        values: (N, T, H, C) features.
        positions: (N, S, H, P) float32 positions on the clip axis.
        weights: (N, S, H, P) float32 weights of the positions.
        count: (N,) float32 number of valid clips, see :func:`interpolate`.
        outside: Result outside the valid clips, see :func:`interpolate`.

    Returns:
        (N, S, H, C) in the type of ``values``. Gradients flow to values, positions and weights.
    """
    samples, clips, heads, width = values.shape
    last = (count - 1).view(-1, 1, 1, 1)
    # Beyond one clip outside the video everything is zero; without this bound the indices would overflow.
    margin = 0 if outside == "clamp" else 2
    positions = positions.clamp(min=-margin).minimum(last + margin)
    left = positions.detach().floor()
    fraction = positions - left
    index = torch.stack([left, left + 1], dim=-1)  # (N, S, H, P, 2)
    share = torch.stack([1 - fraction, fraction], dim=-1) * weights.unsqueeze(-1)
    last = last.unsqueeze(-1)
    if outside == "zero":
        share = share * ((index >= 0) & (index <= last))
    # The clamp keeps an index that was NaN inside the table; its weight is NaN, so the result is NaN too.
    index = index.long().clamp(min=0).minimum(last.long())
    first = torch.arange(samples, device=index.device).view(-1, 1, 1, 1, 1) * clips
    rows = (first + index) * heads + torch.arange(heads, device=index.device).view(-1, 1, 1)
    num_bags = positions.shape[:3].numel()
    # Not in half precision, because the backward pass would take several times as long on a CPU.
    dtype = torch.promote_types(values.dtype, torch.float32)
    read = F.embedding_bag(
        rows.view(num_bags, -1),
        values.reshape(-1, width).to(dtype),
        mode="sum",
        per_sample_weights=share.view(num_bags, -1).to(dtype),
    )
    return read.view(*positions.shape[:3], width).to(values.dtype)
