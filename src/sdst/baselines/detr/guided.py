"""SG-DETR's parts: saliency of clips and words alone, attention that it guides, and a decoder of proposals.

*Reading*: see ``sdst.baselines.sg_detr`` for the source of every formula.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.decoder import DabLayer, logit
from sdst.baselines.detr.layers import Drop, EncoderLayer, FeedForward, attend, xavier
from sdst.baselines.detr.proposals import start_at
from sdst.models.checks import require_at_least
from sdst.models.layers import Dropout, interleaved, mlp

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.baselines.detr.layers import LayerSizes
    from sdst.baselines.detr.proposals import Proposals

SCALE = 3.0
"""Initial logarithm of the factor from cosine to saliency."""


class Graded(NamedTuple):
    """Moments of K levels: the proposals, then every decoder layer.

    Attributes:
        logits: (B, K, M) logit of "is a moment".
        spans: (B, K, M, 2) centre and width in (0, 1).
        quality: (B, K, M) logit of the predicted IoU with the true moment.
    """

    logits: Tensor
    spans: Tensor
    quality: Tensor


class SentenceLayer(nn.Module):
    """One vector attends to the words, without projections before the softmax; then a feed-forward network."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        dim, self.heads = sizes.dim, sizes.heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim)
        self.ffn = FeedForward(dim, sizes.ffn_ratio, sizes.dropout, nn.PReLU())
        self.dropout = Dropout(sizes.dropout)

    def forward(self, sentence: Tensor, words: Tensor, word_mask: Tensor) -> Tensor:
        """Refine the vector (B, 1, d) with words (B, L, d) and their mask (B, L)."""
        words = self.norm1(words)
        update = attend(sentence, words, words, self.heads, word_mask, self.dropout)
        sentence = sentence + self.out_proj(update)
        result: Tensor = sentence + self.ffn(self.norm2(sentence))
        return result


class LocalSaliency(nn.Module):
    """Scaled cosine of each projected clip and one vector of the sentence.

    Args:
        sizes: Sizes of every layer.
        layers: Number of layers in which the vector reads the words.
    """

    def __init__(self, sizes: LayerSizes, layers: int) -> None:
        super().__init__()
        require_at_least(1, sentence_layers=layers)
        self.layers = nn.ModuleList(SentenceLayer(sizes) for _ in range(layers))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.norm = nn.LayerNorm(sizes.dim) if layers > 1 else None
        self.start = nn.Parameter(0.02 * torch.randn(sizes.dim))
        self.log_scale, self.shift = nn.Parameter(torch.tensor(SCALE)), nn.Parameter(torch.tensor(0.0))

    def sentence(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """(B, d) vector of the words (B, L, d) with their mask (B, L)."""
        vector = self.start.expand(len(words), 1, -1)
        for index, layer in enumerate(self.layers):
            if self.norm is not None and index > 0:
                vector = self.norm(vector)
            vector = layer(vector, words, word_mask)
        return vector.squeeze(1)

    def forward(self, clips: Tensor, sentence: Tensor) -> Tensor:
        """(B, T) saliency of clips (B, T, d) for sentences (B, d)."""
        cosine = F.cosine_similarity(clips, sentence.unsqueeze(1), dim=-1)
        return cosine * self.log_scale.exp() + self.shift


class GuidedLayer(nn.Module):
    """Saliency-guided cross-attention: clips attend to words, scaled by their local saliency.

    There are no projections before the softmax, whose result is multiplied by the clip's saliency after a sigmoid. The
    first residual is not normalised.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        dim, self.heads = sizes.dim, sizes.heads
        self.out_proj = nn.Linear(dim, dim)
        self.ffn = FeedForward(dim, sizes.ffn_ratio, sizes.dropout, nn.PReLU())
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout, self.drop = Dropout(sizes.dropout), Drop(sizes.dropout, sizes.drop_path)

    def forward(
        self, clips: Tensor, positions: Tensor, words: Tensor, word_mask: Tensor, share: Tensor
    ) -> Tensor:
        """Map clips (B, T, d) with their positions and shares (B, T) to (B, T, d); words (B, L, d) with mask (B, L)."""
        attended = attend(clips + positions, words, words, self.heads, word_mask, self.dropout)
        clips = clips + self.drop(self.out_proj(share.unsqueeze(-1) * attended))
        result: Tensor = self.norm2(clips + self.drop(self.norm1(self.ffn(clips))))
        return result


class GuidedEncoder(nn.Module):
    """Clips attend to words, scaled by their saliency, then to each other.

    Args:
        sizes: Sizes of every layer.
        text_layers: Number of layers in which clips attend to words.
        layers: Number of layers in which clips attend to each other.
    """

    def __init__(self, sizes: LayerSizes, *, text_layers: int, layers: int) -> None:
        super().__init__()
        require_at_least(1, text_layers=text_layers, encoder_layers=layers)
        self.text_layers = nn.ModuleList(GuidedLayer(sizes) for _ in range(text_layers))
        self.layers = nn.ModuleList(EncoderLayer(*sizes, nn.PReLU()) for _ in range(layers))
        xavier(self)
        self.norm = nn.LayerNorm(sizes.dim)

    def forward(self, given: Aligned, saliency: Tensor) -> Tensor:
        """Encode clips: (B, T, d)."""
        clips: Tensor = given.clips
        words, share = given.words, saliency.sigmoid()
        for layer in self.text_layers:
            clips = self.norm(layer(clips, given.positions, words, given.word_mask, share))
            words = self.norm(words)
        clips = self.norm(clips)  # a second time after the last layer
        for layer in self.layers:
            clips = layer(clips, given.positions, given.clip_mask)
        return clips


class GuidedDecoder(nn.Module):
    """Refines proposals layer by layer, and reads moments, their class and their quality after each layer.

    Args:
        sizes: Sizes of every layer.
        layers: Number of layers.
        prior: Initial class probability.
    """

    def __init__(self, sizes: LayerSizes, *, layers: int, prior: float) -> None:
        super().__init__()
        require_at_least(1, decoder_layers=layers)
        self.dim = dim = sizes.dim
        self.layers = nn.ModuleList(DabLayer(sizes, is_first=False) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.embed_place, self.scale_sine = mlp(dim, dim, dim, depth=2), mlp(dim, dim, dim, depth=2)
        self.width_ratio, self.refine = mlp(dim, dim, 1, depth=2), mlp(dim, dim, 2, depth=3)
        self.read_quality = mlp(2 * dim, dim, 1, depth=3)
        self.read_span, self.read_class = mlp(dim, dim, 2, depth=3), nn.Linear(dim, 1)
        xavier(self)
        for module in (self.refine[-1], self.read_span[-1]):
            start_at(module, 0.0, std=0.0)
        start_at(self.read_class, math.log(prior / (1 - prior)))

    def forward(
        self,
        proposals: Proposals,
        memory: Tensor,
        positions: Tensor,
        mask: Tensor,
        query_mask: Tensor | None = None,
    ) -> Graded:
        """Decode encoded clips (B, T, d) with positions (B, T, d) and mask (B, T), from M proposals.

        No proposal reads those for which ``query_mask`` (B, M) is false.
        """
        content, references = proposals.content, proposals.spans.detach()
        logits, spans, quality = [proposals.logits], [proposals.spans], [proposals.quality]
        sine = self.sines(references).to(content.dtype)
        for layer in self.layers:
            # Spans pass gradients on to the refinement before, but positions do not.
            given = references.detach()
            place = self.embed_place(sine)
            sine = sine * self.scale_sine(content)
            sine = sine * self.width_ratio(content).sigmoid() / given[..., 1:]
            content = layer(content, place, sine, memory, positions, mask, query_mask)
            state = self.norm(content)
            logits.append(self.read_class(state).squeeze(-1))
            spans.append((self.read_span(state) + logit(references)).sigmoid())
            references = (self.refine(content) + logit(given)).sigmoid()
            sine = self.sines(references.detach()).to(content.dtype)
            quality.append(self.read_quality(torch.cat([content, sine], dim=-1)).squeeze(-1))
        return Graded(*(torch.stack(values, dim=1) for values in (logits, spans, quality)))

    def sines(self, spans: Tensor) -> Tensor:
        """Encode spans (..., 2) as (..., d), half for the centre and half for the width."""
        return interleaved(2 * math.pi * spans, self.dim // 2).flatten(-2)
