"""The dense stream (Sec. 3.3.2, eq. 3-4): one embedding per clip, refined level by level, for highlight detection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from sdst.models.layers import FeedForward, MultiHeadAttention, Residual

if TYPE_CHECKING:
    from torch import Tensor

SIGNALS = ("raw", "post_ca", "post_ca_sa", "post_ca_sa_ffn")
"""Stages of the dense stream that the sparse stream can attend to (Tab. 6)."""


class DenseStream(nn.Module):
    """One level of the dense stream.

    Args:
        dim: d.
        heads: H.
        ffn_ratio: Hidden width of the feed-forward network, in d.
        drop_path: Probability of dropping a sample's update.
    """

    def __init__(self, dim: int, heads: int, ffn_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.self_attention = MultiHeadAttention(dim, heads)
        self.ffn = FeedForward(dim, ffn_ratio)
        self.residuals = nn.ModuleList(Residual(dim, drop_path) for _ in range(3))

    def forward(
        self, fused: Tensor, positions: Tensor, mask: Tensor, words: Tensor, words_mask: Tensor
    ) -> dict[str, Tensor]:
        """Refine the fused embeddings with the query's words and the other clips.

        Args:
            fused: (B, T, d) the gated sum of eq. 3.
            positions: (T, d) sinusoidal positions, added to queries and keys but not to values.
            mask: (B, T) valid clips.
            words: (B, L, d) aligned tokens.
            words_mask: (B, L) valid tokens without CLS.

        Returns:
            The four signals of Tab. 6, each (B, T, d); ``post_ca_sa_ffn`` is D^k.
        """
        after_ca, after_sa, after_ffn = self.residuals
        signals = {"raw": fused}
        x = after_ca(fused, self.cross_attention(fused + positions, words, words, words_mask))
        signals["post_ca"] = x
        placed = x + positions
        x = after_sa(x, self.self_attention(placed, placed, x, mask))
        signals["post_ca_sa"] = x
        signals["post_ca_sa_ffn"] = after_ffn(x, self.ffn(x))
        return signals
