"""What CG-DETR and FlashVTG share: token types, dummy tokens, adaptive cross-attention, and its highlight losses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from sdst.baselines.detr.criterion import DetrOutput
from sdst.baselines.detr.highlights import clip_pairs, margin_loss, rank_loss, real_rank_loss, votes
from sdst.baselines.detr.layers import Drop, EncoderLayer, FeedForward, LayerSizes
from sdst.losses.moment import mean_of
from sdst.models.checks import require_at_least
from sdst.models.layers import Dropout

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.losses.criterion import Terms
    from sdst.types import Batch, Record

TYPE_SCALE = 0.02
"""Standard deviation of new token types."""
TIMES = re.compile(r"_\d+\.\d+_\d+\.\d+$")
"""End of a video's name in QVHighlights: start and end in the video that it was cut from."""


@dataclass
class AdaptiveOutput(DetrOutput):
    """An output with the attention of clips to words, which has highlight losses of its own.

    Attributes:
        attention: (B, T) share of each clip's attention that goes to words instead of dummies.
        negative_attention: (B, T) the same for the words of the next sample, in training; else None.
        has_negative: (B,) whether the next sample is about another source video, in training; else None.
    """

    per_clip: ClassVar[tuple[str, ...]] = (*DetrOutput.per_clip, "attention", "negative_attention")

    attention: Tensor | None = None
    negative_attention: Tensor | None = None
    has_negative: Tensor | None = None


class Attended(NamedTuple):
    """What clips attend to: n dummies and L words.

    Attributes:
        dummies: (B, n, d) encoded dummies.
        keys: (B, n + L, d) dummies with their positions, then words.
        words: (B, L, d).
        mask: (B, n + L) true for dummies and valid words.
    """

    dummies: Tensor
    keys: Tensor
    words: Tensor
    mask: Tensor

    def rolled(self) -> Attended:
        """Each sample with the dummies and words of the next one."""
        return Attended(*(tensor.roll(-1, dims=0) for tensor in self))


class TokenTypes(nn.Module):
    """Adds a learned vector to all words and another one to all clips."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(TYPE_SCALE * torch.randn(2, dim))

    def forward(self, given: Aligned) -> Aligned:
        """Aligned clips and words with their types."""
        return given._replace(clips=given.clips + self.weight[1], words=given.words + self.weight[0])


class Dummies(nn.Module):
    """Learned tokens, encoded together with the words, that take the attention of clips that the query is not about.

    Args:
        sizes: Sizes of every layer.
        layers: Number of encoder layers.
        count: n.
    """

    def __init__(self, sizes: LayerSizes, *, layers: int, count: int) -> None:
        super().__init__()
        require_at_least(1, dummy_layers=layers, dummies=count)
        self.layers = nn.ModuleList(EncoderLayer(*sizes, nn.PReLU()) for _ in range(layers))
        self.tokens = nn.Parameter(torch.randn(count, sizes.dim))
        self.positions = nn.Parameter(torch.randn(count, sizes.dim))

    def forward(self, words: Tensor, word_mask: Tensor) -> Attended:
        """Encode the dummies with words (B, L, d); the words themselves stay as they are."""
        batch, count = len(words), len(self.tokens)
        x = torch.cat([self.tokens.expand(batch, -1, -1), words], dim=1)
        positions = F.pad(self.positions, (0, 0, 0, words.shape[1]))
        mask = F.pad(word_mask, (count, 0), value=True)
        for layer in self.layers:
            x = layer(x, positions, mask)
        dummies = x[:, :count]
        return Attended(dummies, torch.cat([dummies + self.positions, words], dim=1), words, mask)


class AdaptiveLayer(nn.Module):
    """Clips attend to dummies and words, but only words have values; then a feed-forward network.

    The attention has no projections before its softmax. The first residual is not normalised: its norm only feeds the
    feed-forward network.

    Args:
        dim: d.
        heads: H.
        ffn_ratio: Hidden width of the feed-forward network, in d.
        dropout: Dropout probability.
        drop_path: Probability of dropping a residual update.
    """

    def __init__(self, dim: int, heads: int, ffn_ratio: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)
        self.ffn = FeedForward(dim, ffn_ratio, dropout, nn.PReLU())
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = Drop(dropout, drop_path)

    def forward(self, clips: Tensor, positions: Tensor, attended: Attended) -> tuple[Tensor, Tensor]:
        """Map clips (B, T, d) with their positions to (B, T, d) and the mean (B, T, n + L) of the heads' weights."""
        query, key, value = (
            rearrange(x, "B N (H c) -> B H N c", H=self.heads)
            for x in (clips + positions, attended.keys, attended.words)
        )
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        weights = self.dropout(scores.masked_fill(~attended.mask[:, None, None], -torch.inf).softmax(dim=-1))
        update = rearrange(weights[..., attended.dummies.shape[1] :] @ value, "B H T c -> B T (H c)")
        return self._updated(clips, self.out_proj(update)), weights.mean(dim=1)

    def without_words(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, d) that attend to nothing."""
        return self._updated(x, self.out_proj.bias.expand_as(x))

    def _updated(self, x: Tensor, update: Tensor) -> Tensor:
        x = x + self.drop(update)
        result: Tensor = self.norm2(x + self.drop(self.ffn(self.norm1(x))))
        return result


class AdaptiveLayers(nn.ModuleList):
    """Layers in which clips attend to dummies and words."""

    def __init__(self, sizes: LayerSizes, layers: int) -> None:
        require_at_least(1, text_layers=layers)
        super().__init__(AdaptiveLayer(*sizes) for _ in range(layers))

    def forward(self, clips: Tensor, positions: Tensor, attended: Attended) -> tuple[Tensor, Tensor]:
        """Map clips (B, T, d) to (B, T, d) and the mean (B, T, n + L) of the layers' attention weights."""
        weights = []
        for layer in self:
            clips, seen = layer(clips, positions, attended)
            weights.append(seen)
        return clips, torch.stack(weights).mean(dim=0)

    def without_words(self, x: Tensor) -> Tensor:
        """Map tokens (B, N, d) that attend to nothing."""
        for layer in self:
            assert isinstance(layer, AdaptiveLayer)
            x = layer.without_words(x)
        return x


def words_share(weights: Tensor, attended: Attended) -> Tensor:
    """(B, T) the share of attention weights (B, T, n + L) on words; dropout may bring their sum above 1."""
    return weights[..., attended.dummies.shape[1] :].sum(dim=-1).clamp(0, 1)


def source_video(record: Record) -> str:
    """Name of the video that the record's video was cut from."""
    return TIMES.sub("", record.vid)


def differs_from_next(batch: Batch) -> Tensor:
    """(B,) true where the next sample is about another source video, so that its words are wrong for this one."""
    sources = [source_video(record) for record in batch.records]
    differs = [one != other for one, other in zip(sources, sources[1:] + sources[:1], strict=True)]
    return torch.tensor(differs, device=batch.video.device)


def highlight_terms(output: AdaptiveOutput, batch: Batch) -> Terms:
    """The terms ``sal`` on saliency and ``attn`` on the attention of clips to words.

    Both are the margin between clips, their ranks, and in training the wrong words of the next sample; ``attn`` is also
    the cross-entropy of attention as "relevant", over all clips. A sample whose next sample is about the same source
    video has no wrong words. The ranks of such samples are averaged separately; in the official code they are missing
    for the attention, and for saliency if a batch has exactly one such sample.
    """
    labels, pairs, mask = votes(batch), clip_pairs(batch), batch.video_mask

    def contrast(scores: Tensor, negatives: Tensor | None, mistaken: Callable[[Tensor], Tensor]) -> Tensor:
        """``mistaken`` maps scores for wrong words to their cross-entropy as "not relevant"."""
        loss = margin_loss(scores, pairs)
        if negatives is None or output.has_negative is None:
            return loss + rank_loss(scores, None, labels, mask)
        real = output.has_negative.bool()
        loss = loss + mean_of(mistaken(negatives).masked_fill(~mask, 0).sum(dim=1), real)
        return loss + real_rank_loss(scores, negatives, real, labels, mask)

    def attn() -> Tensor:
        assert output.attention is not None
        relevant = (labels > 0).to(output.attention.dtype)
        loss = contrast(output.attention, output.negative_attention, not_attended)
        return loss + mean_of(F.binary_cross_entropy(output.attention, relevant, reduction="none"), mask)

    return {"sal": lambda: contrast(output.saliency, output.negative_saliency, F.softplus), "attn": attn}


def not_attended(share: Tensor) -> Tensor:
    """Cross-entropy of shares as "not relevant", at most 100."""
    return F.binary_cross_entropy(share, torch.zeros_like(share), reduction="none")
