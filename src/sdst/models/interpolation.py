"""Sampling clip features at fractional positions: the one interpolation behind RDSA (eq. 9-10) and RoI-align.

Gather and lerp instead of ``grid_sample``: same values, and a backward pass that PyTorch can make deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

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
    last = (count - 1).unsqueeze(1)
    if outside == "clamp":
        positions = positions.clamp(min=0).minimum(last)
    else:
        # Far away everything is zero; the bound keeps the indices below from overflowing.
        positions = positions.clamp(min=-2).minimum(last + 2)
    left = positions.floor()
    fraction = positions - left
    result = None
    for index, weight in ((left, 1 - fraction), (left + 1, fraction)):
        weight = weight * ((index >= 0) & (index <= last))
        # A NaN position reads clip 0 with weight NaN: it shows in the result instead of crashing the gather.
        index = index.clamp(min=0).minimum(last).nan_to_num(0).long().unsqueeze(2)
        part = weight.unsqueeze(2).to(values.dtype) * values.gather(1, index.expand(-1, -1, values.shape[2]))
        result = part if result is None else result + part
    assert result is not None
    return result
