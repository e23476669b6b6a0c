"""Prediction heads (Sec. 3.4, App. A): class, boundary regression, actionness, saliency."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from sdst.models.interpolation import ClipAxis, interpolate
from sdst.models.layers import mlp

if TYPE_CHECKING:
    from torch import Tensor

CLASS_PRIOR = 0.01
"""Probability of "is a moment" before training, as usual with the focal loss."""


def class_head(dim: int) -> nn.Linear:
    """Linear(d, 1) with its bias initialised to the class prior."""
    head = nn.Linear(dim, 1)
    nn.init.constant_(head.bias, -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR))
    return head


def regression_head(dim: int) -> nn.Sequential:
    """Three layers that predict the (centre, width) update of eq. 1; the last starts at zero, so that R^1 = R^0."""
    head = mlp(dim, dim, 2, depth=3)
    last = head[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return head


class ActionnessHead(nn.Module):
    """Predicts the overlap of a moment with a true one from the clips in and around it (eq. 20).

    RoI-align: ``bins`` samples of D^K at the centres of equal parts of the moment, widened by ``context`` around its
    centre, then three linear layers. Samples outside the video read its first or last clip.
    """

    def __init__(self, dim: int, bins: int, hidden: int, context: float) -> None:
        super().__init__()
        self.register_buffer("places", context * ((torch.arange(bins) + 0.5) / bins - 0.5), persistent=False)
        self.mlp = mlp(dim * bins, hidden, 1, depth=3)

    places: Tensor
    """(bins,) in widths from the centre."""

    def forward(self, dense: Tensor, references: Tensor, axis: ClipAxis) -> Tensor:
        """Map (B, T, d) embeddings and (B, M, 2) moments to (B, M) in (0, 1); the moments get no gradient."""
        centre, width = references.detach().unbind(dim=-1)
        where = centre[..., None] + width[..., None] * self.places  # (B, M, bins)
        clips = interpolate(dense, axis.position(where).flatten(1), axis.count, outside="clamp")
        pooled = rearrange(clips, "B (M n) d -> B M (n d)", n=len(self.places))
        logits: Tensor = self.mlp(pooled)
        return logits.squeeze(-1).float().sigmoid()


def saliency_scores(dense: Tensor, text: Tensor) -> Tensor:
    """Eq. 16: cosine of each clip (B, T, d) with the pooled query (B, d); (B, T) float32."""
    return F.cosine_similarity(dense.float(), text.float().unsqueeze(1), dim=-1)
