"""Attention, encoder layers and heads as in DETR: post-norm, positions added to queries and keys in every layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from sdst.models.layers import Dropout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


class LayerSizes(NamedTuple):
    """First arguments of every layer: d, H, hidden width of feed-forward networks in d, and two probabilities."""

    dim: int
    heads: int
    ffn_ratio: int
    dropout: float
    drop_path: float


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None, dropout: Dropout
) -> Tensor:
    """Scaled dot-product attention in heads, without projections.

    Args:
        query: (B, N, c).
        key: (B, S, c).
        value: (B, S, d); d may differ from c.
        heads: H.
        mask: (B, S) or (B, N, S) true for valid keys, None if all are valid; each query needs one valid key.
        dropout: Dropout of the attention weights.

    Returns:
        (B, N, d) with the heads side by side.
    """
    query, key, value = (rearrange(x, "B N (H c) -> B H N c", H=heads) for x in (query, key, value))
    if mask is not None:
        mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
    if dropout.training and dropout.dropped:
        # PyTorch's own dropout of the weights is slow on a CPU.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        attended = dropout(scores.softmax(dim=-1)) @ value
    else:
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    result: Tensor = rearrange(attended, "B H N c -> B N (H c)")
    return result


class Attention(nn.Module):
    """Multi-head attention with the parameters of ``nn.MultiheadAttention``.

    Args:
        dim: d.
        heads: H.
        dropout: Probability of dropping an attention weight.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from ``query`` (B, N, d) to ``key`` and ``value`` (B, S, d); ``mask`` as in ``attend``."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        if key is query:  # one product for both
            dim = query.shape[-1]
            both = F.linear(query, self.in_proj_weight[: 2 * dim], self.in_proj_bias[: 2 * dim])
            q, k = both.chunk(2, dim=-1)
        else:
            q, k = F.linear(query, weights[0], biases[0]), F.linear(key, weights[1], biases[1])
        v = F.linear(value, weights[2], biases[2])
        result: Tensor = self.out_proj(attend(q, k, v, self.heads, mask, self.dropout))
        return result


class FeedForward(nn.Module):
    """Linear, activation, dropout, Linear.

    Args:
        dim: d.
        ratio: Hidden width, in d.
        dropout: Dropout probability.
        activation: Activation of the hidden units.
    """

    def __init__(self, dim: int, ratio: int, dropout: float, activation: nn.Module) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, dim * ratio)
        self.activation = activation
        self.dropout = Dropout(dropout)
        self.linear2 = nn.Linear(dim * ratio, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        result: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return result


class Drop(nn.Module):
    """Drops, in training, whole residual updates of a sample (stochastic depth), or elements if ``drop_path`` is 0."""

    def __init__(self, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.elements, self.drop_path = Dropout(0.0 if drop_path else dropout), drop_path

    def forward(self, update: Tensor) -> Tensor:
        """Map (B, N, d) to (B, N, d)."""
        update = self.elements(update)
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            kept = torch.rand(len(update), 1, 1, device=update.device) < keep
            update = update * (kept / keep).to(update.dtype)
        return update


class TransformerLayer(nn.Module):
    """The parts of a layer: attention, feed-forward network, and a norm for each.

    Args:
        dim: d.
        heads: H.
        ffn_ratio: Hidden width of the feed-forward network, in d.
        dropout: Dropout probability.
        drop_path: Probability of dropping a residual update.
        activation: Activation of the feed-forward network.
    """

    def __init__(
        self, dim: int, heads: int, ffn_ratio: int, dropout: float, drop_path: float, activation: nn.Module
    ) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads, dropout)
        self.ffn = FeedForward(dim, ffn_ratio, dropout, activation)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = Drop(dropout, drop_path)


class EncoderLayer(TransformerLayer):
    """Self-attention and feed-forward network, each with a post-norm residual."""

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Map (B, N, d) with positions (B, N, d) and mask (B, N), or (B, N, N), to (B, N, d)."""
        placed = x + positions
        x = self.norm1(x + self.drop(self.self_attn(placed, placed, x, mask)))
        result: Tensor = self.norm2(x + self.drop(self.ffn(x)))
        return result


class TextToVideoLayer(TransformerLayer):
    """Clips attend to words. The first residual is not normalised: its norm only feeds the feed-forward network."""

    def forward(self, clips: Tensor, positions: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """Map clips (B, T, d) with their positions to (B, T, d); words (B, L, d) with mask (B, L)."""
        clips = clips + self.drop(self.self_attn(clips + positions, words, words, word_mask))
        result: Tensor = self.norm2(clips + self.drop(self.ffn(self.norm1(clips))))
        return result


def with_token(
    layers: Iterable[nn.Module], token: Tensor, place: Tensor, x: Tensor, positions: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Encode a sequence with a token in front of it.

    Args:
        layers: Encoder layers.
        token: (d,), or (B, 1, d).
        place: (d,) position of the token.
        x: (B, N, d).
        positions: (B, N, d), or (1, N, d).
        mask: (B, N) true for valid keys.

    Returns:
        (B, d) token and (B, N, d) sequence.
    """
    size = len(x)
    x = torch.cat([token.expand(size, 1, -1), x], dim=1)
    positions = torch.cat([place.expand(size, 1, -1), positions.expand(size, -1, -1)], dim=1)
    mask = F.pad(mask, (1, 0), value=True)
    for layer in layers:
        x = layer(x, positions, mask)
    return x[:, 0], x[:, 1:]


class GlobalSaliency(nn.Module):
    """Saliency as a bilinear form of each clip and one vector of the whole video."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.clip, self.whole = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, clips: Tensor, whole: Tensor) -> Tensor:
        """Map clips (B, T, d) and the vector (B, d) to (B, T)."""
        scores: Tensor = self.clip(clips) @ self.whole(whole).unsqueeze(-1)
        return scores.squeeze(-1) / math.sqrt(clips.shape[-1])


def xavier(module: nn.Module) -> None:
    """Initialise all matrices of a transformer as DETR does: Xavier uniform. Vectors keep their values."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
