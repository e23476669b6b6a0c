"""Attention of the queries to the video: RDSA (Sec. 3.3.4, eq. 9-11) and its alternatives in Tab. 5.

Deformable attention (eq. 8) predicts the sampling positions from the decoder queries, which have no access to the
keys. Reference-based deformable self-attention, RDSA, predicts them from the clips at the boundaries and the centre
of the current moment. Standard attention reads all clips. All three have ``prepare`` and ``forward`` with the same
arguments.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from sdst.errors import UserError
from sdst.models.checks import require_one_of
from sdst.models.interpolation import ClipAxis, interpolate, interpolate_sum
from sdst.models.layers import MultiHeadAttention, sinusoidal

if TYPE_CHECKING:
    from torch import Tensor

STARTS = ("learned", "pure", "mixed")
SELECTIONS = ("first", "last")
SPREADS = ("circle", "line")
POINTS = {"l": -1.0, "c": 0.0, "r": 1.0}
"""Positions at which eq. 10 reads the moment, in half widths from its centre."""


class VideoMemory(NamedTuple):
    """The part of one level that the queries can read.

    Attributes:
        context: (B, T, d) features that determine the sampling positions: E of eq. 10, or the keys of standard
            attention; None if the queries alone determine them (eq. 8).
        values: (B, T, d) features that are read: W_v D, or D itself for standard attention.
    """

    context: Tensor | None
    values: Tensor


def _by_level(context: Tensor | None, values: Tensor) -> list[VideoMemory]:
    """Split (B, K, T, d) tensors into one memory per level."""
    contexts = [None] * values.shape[1] if context is None else context.unbind(1)
    return [VideoMemory(*level) for level in zip(contexts, values.unbind(1), strict=True)]


class ClipAttention(nn.Module):
    """Standard cross-attention of the queries to all clips (Tab. 5, Stand. CA).

    *Reading*: positions as in Moment-DETR. Keys carry the sines of 2π times their clip's normalised time, on the same
    axis and at the same frequencies as the references' sines, which the queries carry; values carry no positions.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads)

    def prepare(self, signal: Tensor, axis: ClipAxis) -> list[VideoMemory]:
        """Compute keys and values of each level from the dense stream's ``signal`` (B, K, T, d)."""
        places = sinusoidal(2 * math.pi * axis.time(), signal.shape[-1]).to(signal.dtype)
        return _by_level(signal + places.unsqueeze(1), signal)

    def forward(
        self, queries: Tensor, place: Tensor, references: Tensor, memory: VideoMemory, axis: ClipAxis
    ) -> tuple[Tensor, None]:
        """Same as :meth:`DeformableAttention.forward`, but ``place`` is added to the queries; returns no offsets."""
        assert memory.context is not None
        update: Tensor = self.attention(queries + place, memory.context, memory.values, axis.mask)
        return update, None


class ClipConv(nn.Conv1d):
    """A convolution over a clip and its neighbours, for tensors with the features on the last axis."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, d) to (N, T, d)."""
        # As an image one pixel high, because PyTorch accepts images with the channels last but copies sequences.
        image = x.transpose(1, 2).unsqueeze(2)  # (N, d, 1, T)
        result = F.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=(0, 1))
        return result.squeeze(2).transpose(1, 2)


class ContextCNN(nn.Module):
    """E = CNN(D) of eq. 10: ``depth`` blocks of Conv1d (kernel 3), LayerNorm, ReLU; padded clips stay zero."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ClipConv(dim) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (N, T, d) with its (N, T) mask to (N, T, d)."""
        # Padded clips are zeroed so that a convolution reads the same after a video's end with and without padding.
        valid = mask.unsqueeze(-1)
        x = x * valid
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x))) * valid
        return x


class DeformableAttention(nn.Module):
    """Deformable attention around a moment (eq. 9) whose sampling depends on the moment's clips: RDSA (eq. 10-11).

    Without ``sampling``, sampling depends on the decoder queries: z of eq. 11 is Q̂ (see ``with_place``), which
    gives eq. 8.

    Args:
        dim: d.
        heads: H.
        num_points: P, the sampling points per head.
        sampling: Clips of the moment that z is made of, any of ``l``, ``c``, ``r`` (Tab. M); empty for eq. 8.
        cnn_depth: Number of convolutions that give those clips local context, 0 for none (Tab. M). Unused by eq. 8.
        query_dim: Width of z in eq. 10. Unused by eq. 8.
        with_place: Whether z of eq. 8 is Q̂ plus its positional part. Unused by RDSA.
        spread: Where the heads look before training. ``circle``: cos(2πh/H) half widths from the centre, as in
            Deformable-DETR in one dimension; if H is a multiple of 4, two heads look at the centre alone, which is half
            of 4 heads. ``line``: evenly from boundary to boundary.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        num_points: int,
        sampling: Sequence[str] = (),
        cnn_depth: int = 0,
        query_dim: int = 0,
        *,
        with_place: bool = True,
        spread: str = "circle",
    ) -> None:
        super().__init__()
        self.heads = heads
        self.with_place = with_place
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
        # Before training, the points of a head lie at 1/P to P/P of the way from the centre to the head's place.
        turn = torch.cos(2 * math.pi * torch.arange(heads) / heads)
        reach = turn if spread == "circle" else torch.linspace(-1, 1, heads)
        steps = torch.arange(1, num_points + 1) / num_points
        nn.init.zeros_(self.offset.weight)
        self.offset.bias.data = torch.outer(reach, steps).flatten()
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def prepare(self, signal: Tensor, axis: ClipAxis) -> list[VideoMemory]:
        """Compute the part that does not depend on the queries, for all levels at once.

        ``signal`` (B, K, T, d) is the stage of the dense stream that the attention reads.
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
        """Read the video around each reference.

        Args:
            queries: (B, M, d) Q̂; unused by RDSA.
            place: (B, M, d) positional part of the queries; unused by RDSA.
            references: (B, M, 2) current moments (centre, width).
            memory: Memory of this level from :meth:`prepare`.
            axis: Positions of the clips.

        Returns:
            (B, M, d) update of the queries, and (B, M, H) the sum over points of attention times offset in half
            widths (Fig. 4).
        """
        centre, half_width = references[..., :1], references[..., 1:] / 2
        z = queries + place if self.with_place else queries
        if self.query is not None:
            assert memory.context is not None
            where = torch.cat([centre + side * half_width for side in self.sampling], dim=-1)  # (B, M, sides)
            clips = interpolate(memory.context, axis.position(where).flatten(1), axis.count, outside="clamp")
            z = self.query(rearrange(clips, "B (M s) d -> B M (s d)", s=len(self.sampling)))
        # Positions and the softmax stay float32 under autocast: half precision does not separate clips 2000 and 2000.5.
        offsets = rearrange(self.offset(z).float(), "B M (H P) -> B M H P", H=self.heads)
        attention = rearrange(self.weight(z).float(), "B M (H P) -> B M H P", H=self.heads).softmax(dim=-1)

        where = centre.unsqueeze(-1) + offsets * half_width.unsqueeze(-1)  # (B, M, H, P)
        values = rearrange(memory.values, "B T (H c) -> B T H c", H=self.heads)
        read = interpolate_sum(values, axis.position(where), attention, axis.count, outside="zero")
        update: Tensor = self.out(rearrange(read, "B M H c -> B M (H c)"))
        return update, (attention * offsets).sum(dim=-1)


class AttentionOptions(ABC):
    """Which attention the module ``rdsa`` of the sparse stream stands for (Tab. 5), and its sizes."""

    @property
    @abstractmethod
    def choice(self) -> str:
        """Its name in the group ``attention``."""

    @abstractmethod
    def make(self, dim: int, heads: int) -> DeformableAttention | ClipAttention:
        """The attention for queries of width d with H heads."""


@dataclass(frozen=True)
class Standard(AttentionOptions):
    """Standard cross-attention to all clips (Tab. 5, Stand. CA)."""

    choice = "standard"

    def make(self, dim: int, heads: int) -> ClipAttention:
        """See :meth:`AttentionOptions.make`."""
        return ClipAttention(dim, heads)


@dataclass(frozen=True)
class Deformable(AttentionOptions):
    """Deformable attention (eq. 8; Tab. 5, Def. CA).

    Attributes:
        num_points: P, the sampling points per head.
        start: Where the queries come from: ``learned``, or selected clips as in DINO's ``pure`` or ``mixed`` query
            selection (``proposals.py``; Tab. 5, +PureInit and +MixedInit).
        select_from: Level whose clips are selected, ``first`` (D^1) or ``last`` (D^K). *Reading*: last, because DINO
            selects from its finished encoder.
        with_place: Whether the query's position takes part in the choice of sampling points. *Reading*: yes, as in
            Deformable-DETR and TadTR.
        spread: Where the heads look before training, see :class:`DeformableAttention`.

    Raises:
        UserError: A value is out of range.
    """

    num_points: int = 4
    start: str = "learned"
    select_from: str = "last"
    with_place: bool = True
    spread: str = "circle"

    def __post_init__(self) -> None:
        _require_points(self.num_points)
        require_one_of(STARTS, **{"attention.start": self.start})
        require_one_of(SELECTIONS, **{"attention.select_from": self.select_from})
        require_one_of(SPREADS, **{"attention.spread": self.spread})

    @property
    def choice(self) -> str:
        """See :attr:`AttentionOptions.choice`."""
        return "deformable" if self.start == "learned" else f"{self.start}_init"

    def make(self, dim: int, heads: int) -> DeformableAttention:
        """See :meth:`AttentionOptions.make`."""
        return DeformableAttention(
            dim, heads, self.num_points, with_place=self.with_place, spread=self.spread
        )


@dataclass(frozen=True)
class RDSA(AttentionOptions):
    """Reference-based deformable self-attention (Sec. 3.3.4, eq. 9-11; Tab. 5, Ours).

    Attributes:
        num_points: P, the sampling points per head.
        sampling: Clips of the moment that determine where it samples, any of l, c, r (Tab. M).
        cnn_depth: Number of convolutions over the clips before ``sampling`` (Tab. M), 0 for none.
        query_dim: Width of the query z of eq. 10.
        spread: Where the heads look before training, see :class:`DeformableAttention`.

    Raises:
        UserError: A value is out of range.
    """

    choice = "rdsa"

    num_points: int = 4
    sampling: Sequence[str] = ("l", "c", "r")
    cnn_depth: int = 2
    query_dim: int = 64
    spread: str = "circle"

    def __post_init__(self) -> None:
        _require_points(self.num_points)
        require_one_of(SPREADS, **{"attention.spread": self.spread})
        if self.query_dim < 1:
            raise UserError(f"model.attention.query_dim must be at least 1, got {self.query_dim}")
        if self.cnn_depth < 0:
            raise UserError(f"model.attention.cnn_depth must be at least 0, got {self.cnn_depth}")
        chosen = list(self.sampling)
        if not chosen or set(chosen) - set(POINTS) or len(set(chosen)) < len(chosen):
            raise UserError(
                f"model.attention.sampling must be one or more of {', '.join(POINTS)}, each at most once, got {chosen}"
            )

    def make(self, dim: int, heads: int) -> DeformableAttention:
        """See :meth:`AttentionOptions.make`."""
        return DeformableAttention(
            dim, heads, self.num_points, self.sampling, self.cnn_depth, self.query_dim, spread=self.spread
        )


def _require_points(num_points: int) -> None:
    if num_points < 1:
        raise UserError(f"model.attention.num_points must be at least 1, got {num_points}")
