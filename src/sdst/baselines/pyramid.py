"""R2-Tuning's temporal pyramid: points along the video at several resolutions, and the heads that read them.

A point of stride s stands for the s clips from its position on. A video only has the points whose clips are all
valid, and padding does not change these points: a sample has the same result alone and in any batch.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from sdst.errors import UserError
from sdst.types import Anchors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Halve(nn.Module):
    """Merges each pair of neighbours: Conv1d (kernel 2, stride 2), LayerNorm, ReLU; drops an odd last one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, d) to (B, T // 2, d)."""
        return F.relu(self.norm(self.conv(x.transpose(1, 2)).transpose(1, 2)))


class Pyramid(nn.Module):
    """One level of points per stride, each computed from the clips by its own halvings.

    Args:
        dim: d.
        strides: Powers of two in ascending order, starting with 1.
    """

    def __init__(self, dim: int, strides: Sequence[int]) -> None:
        super().__init__()
        if list(strides[:1]) != [1] or any(b <= a or b & (b - 1) for a, b in pairwise(strides)):
            raise UserError(
                f"model.strides must be ascending powers of two from 1, like [1,2,4,8], got {list(strides)}"
            )
        self.strides = list(strides)
        self.levels = nn.ModuleList(
            nn.Sequential(*(Halve(dim) for _ in range(int(math.log2(stride))))) for stride in strides
        )

    def forward(self, clips: Tensor) -> list[Tensor]:
        """Map (B, T, d) to (B, T // stride, d) for each stride; strides above T have no level."""
        return [
            level(clips)
            for stride, level in zip(self.strides, self.levels, strict=True)
            if stride <= clips.shape[1]
        ]

    def anchors(self, mask: Tensor) -> Anchors:
        """Return the points of all levels, from the finest to the coarsest.

        The distance from a point to the farther boundary of its moments is between the point's stride and the next
        level's stride; there is no lower end at the finest level, and no upper end at the coarsest.

        Args:
            mask: (B, T) true for clips from which points are computed.
        """
        # In main memory, because a shape that depends on values on a GPU would have to wait for it.
        sizes = torch.tensor([mask.shape[1] // stride for stride in self.strides])
        reach = torch.tensor(list(pairwise([0, *self.strides[1:], math.inf])))
        position = torch.cat([torch.arange(size) for size in sizes.tolist()])
        stride = torch.tensor(self.strides).repeat_interleave(sizes)
        position = (position * stride).to(mask.device)
        stride = stride.to(mask.device)
        return Anchors(
            position=position.float(),
            stride=stride.float(),
            reach=reach.repeat_interleave(sizes, dim=0).to(mask.device),
            mask=position + stride <= mask.sum(dim=1, keepdim=True),
        )


class PointHead(nn.Module):
    """Two convolutions (kernel 3) along the points of one level; points that do not exist stay zero.

    Args:
        dim: d.
        width_out: Number of outputs per point.
    """

    def __init__(self, dim: int, width_out: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(dim, dim, kernel_size=3, padding=1)
        self.out = nn.Conv1d(dim, width_out, kernel_size=3, padding=1)

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        """Map (B, A, d) points of a level with their (B, A) mask to (B, A, width_out)."""
        exists = mask.unsqueeze(1)
        hidden = F.relu(self.hidden(points.transpose(1, 2) * exists))
        result: Tensor = self.out(hidden * exists)
        return result.transpose(1, 2)


def upsample(level: Tensor, count: Tensor, stride: int, num_clips: int) -> Tensor:
    """Give each clip the value of its point, as R2-Tuning does.

    The n // stride points of a video of n clips share the clips evenly, so a point may get more clips than its
    stride; the last point also gets the remaining clips.

    Args:
        level: (B, A) values of the points of one level.
        count: (B,) n.
        stride: Stride of the level.
        num_clips: T.

    Returns:
        (B, T) values; 0 in a video too short for a point of this level, meaningless where padded.
    """
    points = (count // stride).unsqueeze(1)
    share = count.unsqueeze(1) // points.clamp(min=1)
    owner = torch.arange(num_clips, device=level.device) // share
    return level.gather(1, owner.minimum(points - 1).clamp(min=0)) * (points > 0)
