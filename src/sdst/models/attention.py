"""How queries look at the video: RDSA (Sec. 3.3.4, eq. 9-11) and what Tab. 5 compares it with.

Deformable attention (eq. 8) predicts where to look from the decoder queries, which know nothing of the keys.
Reference-based deformable self-attention, RDSA, asks the clips at the current moment's own boundaries and centre
instead. Standard attention looks at all clips. All have ``prepare`` and ``forward`` with the same arguments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from sdst.models.interpolation import ClipAxis, interpolate, interpolate_sum
from sdst.models.layers import MultiHeadAttention, sinusoidal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

ATTENTIONS = ("standard", "deformable", "pure_init", "mixed_init", "rdsa")
"""The rows of Tab. 5; both initialisations (``proposals.py``) come with deformable attention."""
POINTS = {"l": -1.0, "c": 0.0, "r": 1.0}
"""Where eq. 10 reads the moment, in half widths from its centre."""


class VideoMemory(NamedTuple):
    """What the queries may read of one level.

    Attributes:
        context: (B, T, d) what tells the queries where to look: E of eq. 10, or the keys of standard attention;
            None where the queries decide alone (eq. 8).
        values: (B, T, d) what they read: W_v D, or D itself for standard attention.
    """

    context: Tensor | None
    values: Tensor


def _by_level(context: Tensor | None, values: Tensor) -> list[VideoMemory]:
    """The memory of each level from (B, K, T, d) tensors."""
    contexts = [None] * values.shape[1] if context is None else context.unbind(1)
    return [VideoMemory(*level) for level in zip(contexts, values.unbind(1), strict=True)]


class ClipAttention(nn.Module):
    """Standard cross-attention of the queries to all clips (Tab. 5, Stand. CA).

    *Reading*: positions as in Moment-DETR. Keys carry the sine of 2π times their clip's normalised time, the axis
    and the frequencies of the references' own sines, which the queries carry; values carry none.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads)

    def prepare(self, signal: Tensor, axis: ClipAxis) -> list[VideoMemory]:
        """Keys and values of each level from the dense stream's ``signal`` (B, K, T, d)."""
        places = sinusoidal(2 * math.pi * axis.time(), signal.shape[-1]).to(signal.dtype)
        return _by_level(signal + places.unsqueeze(1), signal)

    def forward(
        self, queries: Tensor, place: Tensor, references: Tensor, memory: VideoMemory, axis: ClipAxis
    ) -> tuple[Tensor, None]:
        """As :meth:`DeformableAttention.forward`, with ``place`` in the query; there are no offsets."""
        assert memory.context is not None
        update: Tensor = self.attention(queries + place, memory.context, memory.values, axis.mask)
        return update, None


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


class DeformableAttention(nn.Module):
    """Deformable attention around a moment (eq. 9), steered by the clips at that moment: RDSA (eq. 10-11).

    Without ``sampling`` the decoder queries steer it: z of eq. 11 is Q̂ itself, which makes it eq. 8.
    *Reading*: Q̂ without the references' positions, which reach it through the modules before.

    Args:
        dim: d.
        heads: H.
        num_points: P, the sampling points per head.
        sampling: Which clips of the moment steer it, any of ``l``, ``c``, ``r`` (Tab. M); none for eq. 8.
        cnn_depth: Convolutions that give those clips local context; 0 for none (Tab. M). Unused by eq. 8.
        query_dim: Width of z in eq. 10. Unused by eq. 8.
    """

    def __init__(
        self, dim: int, heads: int, num_points: int, sampling: Sequence[str], cnn_depth: int, query_dim: int
    ) -> None:
        super().__init__()
        self.heads = heads
        self.sampling = [POINTS[name] for name in sampling]
        self.cnn: ContextCNN | None = None
        self.query: nn.Sequential | None = None
        if sampling:
            self.cnn = ContextCNN(dim, cnn_depth)
            self.query = nn.Sequential(nn.Linear(dim * len(sampling), query_dim), nn.ReLU())
        else:
            query_dim = dim
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

    def prepare(self, signal: Tensor, axis: ClipAxis) -> list[VideoMemory]:
        """What does not depend on the queries, of each level, computed for all at once.

        ``signal`` (B, K, T, d) is what of the dense stream feeds the attention.
        """
        if self.cnn is None:
            return _by_level(None, self.value(signal))
        levels = signal.shape[1]
        flat = rearrange(signal, "B K T d -> (B K) T d")
        context = self.cnn(flat, repeat(axis.mask, "B T -> (B K) T", K=levels))
        return _by_level(rearrange(context, "(B K) T d -> B K T d", K=levels), self.value(signal))

    def forward(
        self, queries: Tensor, place: Tensor, references: Tensor, memory: VideoMemory, axis: ClipAxis
    ) -> tuple[Tensor, Tensor]:
        """Look at the video around each reference.

        Args:
            queries: (B, M, d) Q̂, of which RDSA makes no use.
            place: (B, M, d) the positional part of the queries, of which deformable attention makes no use.
            references: (B, M, 2) current moments (centre, width).
            memory: Of this level, from :meth:`prepare`.
            axis: Where the clips lie.

        Returns:
            (B, M, d) update of the queries, and (B, M, H) the sum over points of attention times offset in half
            widths (Fig. 4).
        """
        centre, half_width = references[..., :1], references[..., 1:] / 2
        z = queries
        if self.query is not None:
            assert memory.context is not None
            where = torch.cat([centre + side * half_width for side in self.sampling], dim=-1)  # (B, M, sides)
            clips = interpolate(memory.context, axis.position(where).flatten(1), axis.count, outside="clamp")
            z = self.query(rearrange(clips, "B (M s) d -> B M (s d)", s=len(self.sampling)))
        # Positions and the softmax stay float32 under autocast: half precision cannot tell clip 1000 from 1000.5.
        offsets = rearrange(self.offset(z).float(), "B M (H P) -> B M H P", H=self.heads)
        attention = rearrange(self.weight(z).float(), "B M (H P) -> B M H P", H=self.heads).softmax(dim=-1)

        where = centre.unsqueeze(-1) + offsets * half_width.unsqueeze(-1)  # (B, M, H, P)
        values = rearrange(memory.values, "B T (H c) -> B T H c", H=self.heads)
        read = interpolate_sum(values, axis.position(where), attention, axis.count, outside="zero")
        update: Tensor = self.out(rearrange(read, "B M H c -> B M (H c)"))
        return update, (attention * offsets).sum(dim=-1)
