"""Layers that both streams use: residuals, feed-forward, positions, pooling, attention (App. A)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Residual(nn.Module):
    """PostNorm residual with stochastic depth: LayerNorm(x + DropPath(update))."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        """Add ``update`` to ``x``, both (B, N, d); training drops a sample's update with probability ``drop_path``."""
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            kept = torch.rand(len(x), 1, 1, device=x.device) < keep
            x = torch.addcmul(x, update.to(x.dtype), (kept / keep).to(x.dtype))
        else:
            x = x + update
        result: Tensor = self.norm(x)
        return result


class Dropout(nn.Module):
    """Zero each element with ``probability`` in training and scale the others up, like ``nn.Dropout``.

    It draws 16 random bits per element, which on a CPU is several times as fast as PyTorch's random numbers. The
    probability is rounded to a multiple of 2^-16 below 1, and the scale is exact for the rounded probability.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.dropped = min(round(probability * 2**16), 2**16 - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map a tensor of any shape to the same shape."""
        if not self.training or not self.dropped:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()].view(x.shape) >= self.dropped - 2**15
        return (x * kept).mul_(2**16 / (2**16 - self.dropped))


class FeedForward(nn.Module):
    """Point-wise feed-forward network (PFFN): Linear, ReLU, Linear, Kaiming initialised."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, dim * ratio)
        self.contract = nn.Linear(dim * ratio, dim)
        for linear in (self.expand, self.contract):
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., d) to (..., d)."""
        # Not in place, here and below: the result of a linear layer is a view, and PyTorch would copy its gradient
        # three times.
        result: Tensor = self.contract(F.relu(self.expand(x)))
        return result


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention, Xavier initialised, no dropout."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend from ``query`` (B, N, d) to ``key`` and ``value`` (B, S, d).

        ``key_mask`` is true where a key is valid, (B, S) for all queries alike or (B, N, S); each query needs one
        valid key. Returns (B, N, d).
        """
        # Without einops, because for a single query its overhead is 2 % of the model's time.
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, N, c)
            for x in (self.query(query), self.key(key), self.value(value))
        )
        if key_mask is not None:  # to (B, 1, 1 or N, S)
            key_mask = key_mask[:, None, None] if key_mask.dim() == 2 else key_mask[:, None]
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # PyTorch's backward pass of bfloat16 attention on a CPU is ten times slower than that of float32.
            with torch.autocast("cpu", enabled=False):
                attended = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=key_mask)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        result: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return result


class AdaptivePool(nn.Module):
    """Softmax-weighted mean over tokens, with scores from one learned vector (App. C.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.randn(dim) / math.sqrt(dim))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map (..., L, d) tokens with their (..., L) mask to (..., d)."""
        weights = (tokens @ self.score).float().masked_fill(~mask, -torch.inf).softmax(dim=-1)
        return (weights.to(tokens.dtype).unsqueeze(-2) @ tokens).squeeze(-2)


def alignment(width: int, dim: int, dropout: float) -> nn.Sequential:
    """Eq. 2: LayerNorm, Dropout, Linear, then ReLU, then LayerNorm, Dropout, Linear again."""
    return nn.Sequential(
        nn.LayerNorm(width),
        Dropout(dropout),
        nn.Linear(width, dim),
        nn.ReLU(),
        nn.LayerNorm(dim),
        Dropout(dropout),
        nn.Linear(dim, dim),
    )


def with_places(video: Tensor, seen: Tensor) -> Tensor:
    """Append each clip's start and end, as shares of the ``seen`` (B, T) clips, to its features (B, K, T, Dv)."""
    index = torch.arange(video.shape[2], device=video.device)
    places = torch.stack([index, index + 1], dim=-1) / seen.sum(dim=1)[:, None, None]  # (B, T, 2)
    places = places.to(video.dtype).unsqueeze(1).expand(-1, video.shape[1], -1, -1)
    return torch.cat([video, places], dim=-1)


def mlp(width_in: int, hidden: int, width_out: int, depth: int) -> nn.Sequential:
    """``depth`` linear layers with ReLU between them."""
    widths = [width_in, *[hidden] * (depth - 1), width_out]
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def sinusoidal(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines (..., dim) of ``positions`` (...) at dim/2 geometric frequencies from 1 to 1/10,000."""
    steps = torch.arange(dim // 2, device=positions.device, dtype=torch.float32)
    frequencies = torch.exp(steps * (-math.log(10_000) / (dim // 2)))
    angles = positions.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def interleaved(angles: Tensor, dim: int) -> Tensor:
    """Encode ``angles`` (...) as (..., dim) like ``sinusoidal``, with sine and cosine of a frequency side by side."""
    return rearrange(sinusoidal(angles, dim), "... (two half) -> ... (half two)", two=2)
