"""Reference-based deformable self-attention, RDSA (Sec. 3.3.4, eq. 9-11): how queries look at the video.

Eq. 8 predicts where to look from the decoder queries, which know nothing of the keys. RDSA asks the clips at the
current moment's own boundaries and centre instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import nn

from sdst.models.interpolation import ClipAxis, interpolate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

POINTS = {"l": -1.0, "c": 0.0, "r": 1.0}
"""Where eq. 10 reads the moment, in half widths from its centre."""


class VideoMemory(NamedTuple):
    """What the queries may read of one or several levels; leading axes (...) are (B,) or (B, K).

    Attributes:
        context: (..., T, d) E of eq. 10.
        values: (..., T, d) W_v D.
    """

    context: Tensor
    values: Tensor


class ContextCNN(nn.Module):
    """E = CNN(D) of eq. 10: ``depth`` times Conv1d (kernel 3), LayerNorm, ReLU; padded clips stay zero."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, kernel_size=3, padding=1) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, T, d) and its (N, T) mask to (N, T, d)."""
        # A convolution must see the same beyond a video's end with and without padding: zeros.
        valid = mask.unsqueeze(-1)
        x = x * valid
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x.transpose(1, 2)).transpose(1, 2))) * valid
        return x


class RDSA(nn.Module):
    """Deformable attention around a moment, steered by the clips at that moment.

    Args:
        dim: d.
        heads: H.
        num_points: P, the sampling points per head.
        sampling: Which clips of the moment steer it, any of ``l``, ``c``, ``r`` (Tab. M).
        cnn_depth: Convolutions that give those clips local context; 0 for none (Tab. M).
        query_dim: Width of z in eq. 10.
    """

    def __init__(
        self, dim: int, heads: int, num_points: int, sampling: Sequence[str], cnn_depth: int, query_dim: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.sampling = [POINTS[name] for name in sampling]
        self.cnn = ContextCNN(dim, cnn_depth)
        self.query = nn.Sequential(nn.Linear(dim * len(sampling), query_dim), nn.ReLU())
        self.offset = nn.Linear(query_dim, heads * num_points)
        self.weight = nn.Linear(query_dim, heads * num_points)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        # Heads start looking left, right and at the centre, their points 1/P to P/P of the way to the boundary.
        reach = torch.cos(2 * math.pi * torch.arange(heads) / heads)
        steps = torch.arange(1, num_points + 1) / num_points
        nn.init.zeros_(self.offset.weight)
        self.offset.bias.data = torch.outer(reach, steps).flatten()
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def prepare(self, signal: Tensor, mask: Tensor) -> VideoMemory:
        """What does not depend on the queries, for all levels at once.

        ``signal`` (B, K, T, d) is what of the dense stream feeds the attention, ``mask`` is (B, T).
        """
        levels = signal.shape[1]
        flat = rearrange(signal, "B K T d -> (B K) T d")
        context = self.cnn(flat, repeat(mask, "B T -> (B K) T", K=levels))
        return VideoMemory(rearrange(context, "(B K) T d -> B K T d", K=levels), self.value(signal))

    def forward(self, references: Tensor, memory: VideoMemory, axis: ClipAxis) -> tuple[Tensor, Tensor]:
        """Look at the video around each reference.

        Args:
            references: (B, M, 2) current moments (centre, width).
            memory: One level of :meth:`prepare`, context and values (B, T, d).
            axis: Where the clips lie.

        Returns:
            (B, M, d) update of the queries, and (B, M, H) the sum over points of attention times offset in half
            widths (Fig. 4).
        """
        centre, half_width = references[..., :1], references[..., 1:] / 2
        where = torch.cat([centre + side * half_width for side in self.sampling], dim=-1)  # (B, M, sides)
        clips = interpolate(memory.context, axis.position(where).flatten(1), axis.count, outside="clamp")
        z = self.query(rearrange(clips, "B (M s) d -> B M (s d)", s=len(self.sampling)))
        # Positions and the softmax stay float32 under autocast: half precision cannot tell clip 1000 from 1000.5.
        offsets = rearrange(self.offset(z).float(), "B M (H P) -> B H M P", H=self.heads)
        attention = rearrange(self.weight(z).float(), "B M (H P) -> B H M P", H=self.heads).softmax(dim=-1)

        where = centre[:, None] + offsets * half_width[:, None]  # (B, H, M, P)
        sampled = interpolate(
            rearrange(memory.values, "B T (H c) -> (B H) T c", H=self.heads),
            rearrange(axis.position(where), "B H M P -> (B H) (M P)"),
            axis.count.repeat_interleave(self.heads),
            outside="zero",
        )
        sampled = rearrange(sampled, "(B H) (M P) c -> B H M P c", H=self.heads, P=offsets.shape[-1])
        read = einsum(attention.to(sampled.dtype), sampled, "B H M P, B H M P c -> B M H c")
        update: Tensor = self.out(rearrange(read, "B M H c -> B M (H c)"))
        return update, rearrange((attention * offsets).sum(dim=-1), "B H M -> B M H")
