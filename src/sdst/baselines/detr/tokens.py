"""Tokens of moments and sentences that guide the attention of CG-DETR, in training only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.adaptive import AdaptiveOutput
from sdst.baselines.detr.layers import EncoderLayer, with_token, xavier
from sdst.models.checks import require_at_least

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.baselines.detr.adaptive import Attended
    from sdst.baselines.detr.inputs import Aligned
    from sdst.baselines.detr.layers import LayerSizes

LEAST_WEIGHT = 1e-6
"""Added to attention weights before their logarithm."""


@dataclass(kw_only=True)
class GuidedOutput(AdaptiveOutput):
    """An output in training, with what the losses on moments and sentences read.

    Attributes:
        moment: (B, d) token that saw the relevant clips.
        rest: (B, d) token that saw the other clips.
        sentence: (B, d) token that saw the words.
        dummy_sentence: (B, d) token that saw the dummies.
        member_logits: (B, T) logit of "is a clip of the moment", for the clips that were read.
        divergence: (B, T) distance of a clip's attention weights from its similarity to dummies and words.
        redundancy: (B,) mean similarity of dummies to each other, plus that of the prompts.
    """

    moment: Tensor
    rest: Tensor
    sentence: Tensor
    dummy_sentence: Tensor
    member_logits: Tensor
    divergence: Tensor
    redundancy: Tensor


class Guide(nn.Module):
    """Tokens of the moment and of the sentence, which guide attention in training only.

    Args:
        sizes: Sizes of every layer.
        moment_layers: Number of layers in which clips attend to the moment's token and clips.
        sentence_layers: Number of layers in which words, or dummies, attend to the sentence's token and each other.
    """

    def __init__(self, sizes: LayerSizes, *, moment_layers: int, sentence_layers: int) -> None:
        super().__init__()
        require_at_least(1, moment_layers=moment_layers, sentence_layers=sentence_layers)
        self.moment_layers, self.sentence_layers = (
            nn.ModuleList(EncoderLayer(*sizes, nn.PReLU()) for _ in range(layers))
            for layers in (moment_layers, sentence_layers)
        )
        xavier(self.moment_layers)
        dim = sizes.dim
        self.moment, self.moment_position = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(dim))
        self.sentence, self.sentence_position = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(dim))

    def forward(
        self, given: Aligned, attended: Attended, positions: Tensor, weights: Tensor, relevant: Tensor
    ) -> dict[str, Tensor]:
        """Compute the fields that ``GuidedOutput`` adds, except ``redundancy``.

        Args:
            given: Clips and words before they attend to anything.
            attended: Dummies and words.
            positions: (n, d) positions of the dummies.
            weights: (B, T, n + L) attention weights of the clips.
            relevant: (B, T) true for relevant clips.
        """
        moment, rest, frames = self._moments(given, relevant)
        zeros = torch.zeros_like(given.words)
        count = len(positions)
        (sentence, words), (dummy_sentence, dummies) = (
            with_token(self.sentence_layers, self.sentence, self.sentence_position, *tokens)
            for tokens in (
                (given.words, zeros, given.word_mask),
                (attended.dummies, positions.unsqueeze(0), attended.mask[:, :count]),
            )
        )
        with torch.no_grad():
            similarity = frames @ torch.cat([dummies, words], dim=1).transpose(1, 2)
            target = similarity.float().masked_fill(~attended.mask.unsqueeze(1), -torch.inf).softmax(dim=-1)
        distances = F.kl_div((weights.float() + LEAST_WEIGHT).log(), target, reduction="none").sum(dim=-1)
        return {
            "moment": moment,
            "rest": rest,
            "sentence": sentence,
            "dummy_sentence": dummy_sentence,
            "member_logits": (frames @ moment.unsqueeze(2)).squeeze(2),
            "divergence": distances / attended.mask.sum(dim=1, keepdim=True),
        }

    def _moments(self, given: Aligned, relevant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a token with relevant clips, and one with the others: (B, d), (B, d), and (B, T, d) clips.

        Both are one sequence, in which tokens and clips attend to those of their own group.
        """
        size = len(relevant)
        x = torch.cat([self.moment.expand(size, 2, -1), given.clips], dim=1)
        positions = torch.cat([self.moment_position.expand(size, 2, -1), given.positions], dim=1)
        tokens = torch.tensor([True, False], device=relevant.device).expand(size, -1)
        group = torch.cat([tokens, relevant], dim=1)
        valid = F.pad(given.clip_mask, (2, 0), value=True)
        mask = (group.unsqueeze(2) == group.unsqueeze(1)) & valid.unsqueeze(1)
        for layer in self.moment_layers:
            x = layer(x, positions, mask)
        return x[:, 0], x[:, 1], x[:, 2:]


def redundancy(tokens: Tensor) -> Tensor:
    """(...) mean of |cosine| of different tokens (..., n, d), over n² pairs; the second of a pair gets no gradient."""
    unit = F.normalize(tokens, dim=-1)
    cosine = unit @ unit.detach().transpose(-1, -2)
    other = 1 - torch.eye(tokens.shape[-2], dtype=cosine.dtype, device=cosine.device)
    return (cosine.abs() * other).mean(dim=(-2, -1))
