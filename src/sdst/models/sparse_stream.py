"""The sparse stream (Sec. 3.3.3, eq. 5-6): recurrent decoder queries, one per candidate moment."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdst.errors import UserError
from sdst.models.layers import FeedForward, MultiHeadAttention, Residual, mlp, sinusoidal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdst.models.attention import ClipAttention, DeformableAttention, VideoMemory
    from sdst.models.interpolation import ClipAxis

REFERENCES = ("spread", "random")
MODULES = ("ca", "sa", "rdsa", "ffn")
"""Cross-attention to the text, self-attention among queries, attention to the video, feed-forward (Tab. 7, N)."""


class SparseStream(nn.Module):
    """One level of the sparse stream: the given modules in the given order.

    Args:
        dim: d.
        heads: H.
        ffn_ratio: Hidden width of the feed-forward network, in d.
        drop_path: Probability of dropping a sample's update.
        modules: Any of ``ca``, ``sa``, ``rdsa``, ``ffn``, each at most once, in the order in which they run;
            ``ffn`` last.
        rdsa: Attention of the queries to the video, one of Tab. 5; None exactly if ``modules`` lacks ``rdsa``.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_ratio: int,
        drop_path: float,
        modules: Sequence[str],
        rdsa: DeformableAttention | ClipAttention | None,
    ) -> None:
        super().__init__()
        if unknown := [name for name in modules if name not in MODULES]:
            raise UserError(f"model.modules must be among {', '.join(MODULES)}, got {unknown[0]!r}")
        if not modules or len(set(modules)) < len(modules):
            raise UserError(
                f"model.modules must name at least one module, each at most once, got {list(modules)}"
            )
        if "ffn" in modules[:-1]:
            raise UserError(f"model.modules must have ffn last, got {list(modules)}")
        self.order = tuple(modules)
        self.dim = dim
        self.position = mlp(2 * dim, dim, dim, depth=2)
        self.cross_attention = MultiHeadAttention(dim, heads) if "ca" in modules else None
        self.self_attention = MultiHeadAttention(dim, heads) if "sa" in modules else None
        self.rdsa = rdsa
        self.ffn = FeedForward(dim, ffn_ratio) if "ffn" in modules else None
        self.residuals = nn.ModuleDict({name: Residual(dim, drop_path) for name in modules})

    def prepare(self, signal: Tensor, axis: ClipAxis) -> list[VideoMemory] | list[None]:
        """Compute for each level what ``rdsa`` reads of the dense signal (B, K, T, d); None without ``rdsa``."""
        return [None] * signal.shape[1] if self.rdsa is None else self.rdsa.prepare(signal, axis)

    def forward(
        self,
        queries: Tensor,
        references: Tensor,
        text: Tensor,
        text_mask: Tensor,
        memory: VideoMemory | None,
        axis: ClipAxis,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Refine the queries.

        Args:
            queries: (B, M, d) Q^{k-1}.
            references: (B, M, 2) R^{k-1}.
            text: (B, L, d) aligned tokens.
            text_mask: (B, L) valid tokens, including CLS.
            memory: Memory of this level from :meth:`prepare`.
            axis: Positions of the clips.
            visible: (B, M, M) true where the query of a row may attend to that of a column; None for all.

        Returns:
            (B, M, d) Q^k, and the (B, M, H) mean offsets, or None if the attention has no offsets.
        """
        sines = sinusoidal(references * (2 * math.pi), self.dim).flatten(-2)
        place = self.position(sines.to(queries.dtype))
        offsets = None
        for name in self.order:
            if name == "ca":
                assert self.cross_attention is not None
                update = self.cross_attention(queries + place, text, text, text_mask)
            elif name == "sa":
                assert self.self_attention is not None
                placed = queries + place
                update = self.self_attention(placed, placed, queries, visible)
            elif name == "rdsa":
                assert self.rdsa is not None
                assert memory is not None
                update, offsets = self.rdsa(queries, place, references, memory, axis)
            else:
                assert self.ffn is not None
                update = self.ffn(queries)
            queries = self.residuals[name](queries, update)
        return queries, offsets


def initial_references(num_queries: int, kind: str) -> Tensor:
    """Return (M, 2) initial references R^0, ``spread`` or ``random``, see ``SDST``.

    Neighbouring spread references differ in width, so that short and long moments have a query nearby from the first
    step on.
    """
    if kind == "random":
        return torch.rand(num_queries, 2).clamp(0.01, 0.99)
    centres = (torch.arange(num_queries) + 0.5) / num_queries
    widths = 2.0 ** -(5 - torch.arange(num_queries) % 6)
    return torch.stack([centres, widths.clamp(max=0.95)], dim=-1)
