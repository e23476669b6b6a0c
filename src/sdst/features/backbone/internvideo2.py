"""InternVideo2 stage-2 vision tower: states after every block, pooled per layer (Sec. 4, eq. 15).

Parameter names are those of the official checkpoint. Shapes use ``N`` clips, ``F`` frames of a clip, ``S``
tokens (CLS and one per patch), ``D`` token width. There is no dropout, because the official tower only runs frozen.
Norms and the residual sum are computed in float32, whatever the precision of the parameters.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdst.features.backbone.sizes import VisionConfig

Grid = tuple[int, int, int]
"""Number of tokens along time, height and width."""


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32, returned in the parameters' precision."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        normed = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)
        return normed.to(self.weight.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer norm, computed in float32, returned in the parameters' precision."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


class LayerScale(nn.Module):
    """One learned factor per channel, in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D) float32."""
        return x * self.gamma.float()


class SelfAttention(nn.Module):
    """Multi-head self-attention; queries and keys are normed over their full width, before the split into heads."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = RMSNorm(dim)
        self.k_norm = RMSNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) to (N, S, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mixed: Tensor = self.proj(_attend(self.q_norm(q), self.k_norm(k), v, self.num_heads))
        return mixed


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1 = RMSNorm(dim)
        self.attn = SelfAttention(dim, config.num_heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = RMSNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) float32 to (N, S, D) float32."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class CrossAttention(nn.Module):
    """Multi-head attention with the input biases as separate parameters, named as in the checkpoint."""

    def __init__(self, dim: int, out_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.k_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, out_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(N, Q, D), (N, S, D), (N, S, D) to (N, Q, out_dim)."""
        q, k, v = self.q(query) + self.q_bias, self.k(key) + self.k_bias, self.v(value) + self.v_bias
        mixed: Tensor = self.proj(_attend(q, k, v, self.num_heads))
        return mixed


class AttentionPooling(nn.Module):
    """Pools tokens by one attention step with their mean as query: AdaptivePool of eq. 15."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1_q = LayerNorm(dim, eps=1e-5)
        self.norm1_k = LayerNorm(dim, eps=1e-5)
        self.norm1_v = LayerNorm(dim, eps=1e-5)
        self.cross_attn = CrossAttention(dim, config.clip_embed_dim, config.attn_pool_num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) to (N, clip_embed_dim) float32."""
        query = self.norm1_q(x.mean(dim=1, keepdim=True))
        pooled: Tensor = self.cross_attn(query, self.norm1_k(x), self.norm1_v(x))
        return pooled.squeeze(1).float()


class VisionTower(nn.Module):
    """The tower up to its pooled features, without the official heads above it."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        dim, kernel = config.embed_dim, (config.tubelet_size, config.patch_size, config.patch_size)
        frames, height, width = config.grid
        conv = nn.Conv3d(config.in_chans, dim, kernel, stride=kernel)
        self.patch_embed = nn.Sequential(OrderedDict(proj=conv))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + frames * height * width, dim))
        self.img_pos_embed = nn.Parameter(torch.zeros(1, 1 + height * width, dim))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.clip_projector = AttentionPooling(config)

    @torch.no_grad()
    def forward(self, frames: Tensor, layers: Sequence[int], poolings: Sequence[str]) -> dict[str, Tensor]:
        """Pooled states after the given blocks, in one pass that never holds the tokens of two layers.

        Args:
            frames: (N, C, F, H, W) normalised clips; a single frame uses the image positions. F may differ from the
                configured number and H, W from the configured size: positions are then interpolated.
            layers: Block numbers, 1 to depth.
            poolings: Any of ``cls`` (first token), ``avg`` (mean of all tokens), ``adaptive`` (eq. 15).

        Returns:
            pooling -> (N, n_layers, Dv) float32 in the order of ``layers``; Dv is ``clip_embed_dim`` for
            adaptive and ``embed_dim`` for the others.

        Raises:
            UserError: A layer or pooling does not exist.
        """
        for layer in layers:
            if not 1 <= layer <= self.config.depth:
                raise UserError(f"vision layer {layer} does not exist; choose from 1 to {self.config.depth}")
        pooled: dict[tuple[str, int], Tensor] = {}
        for layer, tokens in zip(range(1, max(layers) + 1), self.states(frames), strict=False):
            if layer in layers:
                pooled.update({(pooling, layer): self.pool(tokens, pooling) for pooling in poolings})
        return {
            pooling: torch.stack([pooled[pooling, layer] for layer in layers], dim=1) for pooling in poolings
        }

    def states(self, frames: Tensor) -> Iterator[Tensor]:
        """Yield the (N, S, D) float32 tokens of (N, C, F, H, W) clips after each block, CLS first.

        Unlike ``forward``, it records gradients, because ``sdst world train-backbone`` trains a small tower.
        """
        tokens = self._embed(frames)
        for block in self.blocks:
            tokens = block(tokens)
            yield tokens

    def pool(self, tokens: Tensor, pooling: str) -> Tensor:
        """Pool (N, S, D) tokens of any layer to (N, Dv)."""
        match pooling:
            case "cls":
                return tokens[:, 0].clone()  # cloned, because a view would keep the whole layer in memory
            case "avg":
                return tokens.mean(dim=1)
            case "adaptive":
                pooled: Tensor = self.clip_projector(tokens)
                return pooled
        raise UserError(f"pooling '{pooling}' does not exist; choose from cls, avg, adaptive")

    def _embed(self, frames: Tensor) -> Tensor:
        patches: Tensor = self.patch_embed(frames.to(self.cls_token.dtype))
        wanted = (patches.shape[2], patches.shape[3], patches.shape[4])
        positions, stored = self.pos_embed, self.config.grid
        if frames.shape[2] == 1:
            positions, stored = self.img_pos_embed, (1, stored[1], stored[2])
        tokens = rearrange(patches, "n d t h w -> n (t h w) d")
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens.float() + resize_positions(positions.float(), stored, wanted)


def resize_positions(positions: Tensor, stored: Grid, wanted: Grid) -> Tensor:
    """Interpolate position embeddings as the official code does: first linear in time, then bicubic in space.

    Args:
        positions: (1, 1 + tokens of ``stored``, D), CLS first; the position of CLS stays unchanged.
        stored: Grid of ``positions``.
        wanted: Grid of the result.

    Returns:
        (1, 1 + tokens of ``wanted``, D).
    """
    if wanted == stored:
        return positions
    cls, patches = positions[:, :1], positions[:, 1:]
    patches = rearrange(patches, "1 (t s) d -> s d t", t=stored[0])
    patches = F.interpolate(patches, size=wanted[0], mode="linear")
    patches = rearrange(patches, "(h w) d t -> t d h w", h=stored[1])
    patches = F.interpolate(patches, size=wanted[1:], mode="bicubic")
    return torch.cat([cls, rearrange(patches, "t d h w -> 1 (t h w) d")], dim=1)


def _attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    q, k, v = (rearrange(x, "n s (h c) -> n h s c", h=num_heads) for x in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "n h s c -> n s (h c)")
