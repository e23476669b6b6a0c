"""TR-DETR: retrieval and highlights that help each other, and aligned modalities (``model=tr_detr``).

Source: Sun et al., TR-DETR: Task-Reciprocal Transformer for Joint Moment Retrieval and Highlight Detection, AAAI 2024,
and its official code: with the official weights (``convert_official``), outputs, losses and gradients are the same.

Kept from that code: a retrieved moment that starts before the video counts its start from the video's end, so that the
cut is usually empty. Adapted: padding is ignored by the softmax over clips, by the cut, which is as long as the video,
and by the means of both alignment losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.criterion import ContrastCriterion, DetrOutput
from sdst.baselines.detr.decoder import DabDecoder, foreground
from sdst.baselines.detr.highlights import annotated
from sdst.baselines.detr.layers import EncoderLayer, TextToVideoLayer, xavier
from sdst.baselines.detr.model import DetrModel, Options
from sdst.baselines.detr.official import DAB, PROJECTIONS, encoder_names, renamed
from sdst.losses.alignment import info_nce
from sdst.losses.criterion import TERMS, Terms
from sdst.losses.moment import focal_errors, mean_of
from sdst.models.checks import require_at_least
from sdst.models.layers import AdaptivePool, Dropout
from sdst.spans import cw_to_se

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.types import Batch, Output

OFFICIAL_NAMES = {
    **PROJECTIONS,
    r"fuser\.cq_attention\.w4C": "fuser.clip_score",
    r"fuser\.cq_attention\.w4Q": "fuser.word_score",
    r"fuser\.cq_attention\.w4mlu": "fuser.pair_score",
    r"fuser\.cq_attention\.cqa_linear\.conv1d": "fuser.fuse",
    r"fuser\.cq_concat\.weighted_pool\.weight": "fuser.pool.score",
    r"fuser\.cq_concat\.conv1d\.conv1d": "fuser.merge",
    **encoder_names(r"transformer\.t2v_encoder", "text_layers"),
    **encoder_names(r"transformer\.encoder", "layers"),
    **DAB,
    r"gru_extractor\.gru": "read_cut",
    "saliency_proj1": "saliency",
}
"""Pattern of the official code's names -> name in ``TRDETR``."""
OFFICIAL_UNUSED = ("txt_position_embed.",)
"""Beginnings of official names without effect: positions of words."""


@dataclass
class TrDetrOutput(DetrOutput):
    """The output of TR-DETR, whose ``video`` and ``text`` are the clips and the mean word before they are fused.

    Attributes:
        both_logits: (B, K, M, 2) logits of "is a moment" and "is not".
        words: (B, L, d) projected words.
    """

    both_logits: Tensor | None = None
    words: Tensor | None = None


class TrDetrCriterion(ContrastCriterion):
    """Losses of TR-DETR.

    ``cls`` is the mean focal loss of both logits of every query, although queries are matched by their softmax;
    ``ctc`` aligns relevant clips with the words of their query, and ``vtc`` videos with queries.
    """

    terms = (*TERMS, "ctc", "vtc")

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        assert isinstance(output, TrDetrOutput)
        return super().losses(output, batch) | {
            "ctc": lambda: self.clip_alignment(output, batch),
            "vtc": lambda: info_nce(
                masked_mean(output.video[:, 0], batch.video_mask),
                output.text[:, 0],
                temperature=self.temperature,
            ).mean(),
        }

    def class_loss(self, output: Output, matched: Tensor) -> Tensor:
        """(K,) class loss of every decoder layer; ``matched`` (B, K, M) is true for queries with a moment."""
        assert isinstance(output, TrDetrOutput)
        assert output.both_logits is not None
        target = torch.stack([matched, ~matched], dim=-1)
        errors = focal_errors(output.both_logits, target, alpha=self.alpha, gamma=self.gamma)
        return errors.mean(dim=(0, 2, 3))

    def clip_alignment(self, output: TrDetrOutput, batch: Batch) -> Tensor:
        """Cross-entropy of "annotated" for the cosine of each clip and the mean normalised word; mean over clips."""
        assert output.words is not None
        clips, words = F.normalize(output.video[:, 0], dim=-1), F.normalize(output.words, dim=-1)
        query = masked_mean(words, batch.text_mask)
        logits = (clips @ query.unsqueeze(-1)).squeeze(-1) / self.temperature
        seen = batch.video_mask[:, : clips.shape[1]]
        target = annotated(batch)[:, : clips.shape[1]].to(logits.dtype)
        return mean_of(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), seen)


class Fuser(nn.Module):
    """Fuses clips and words by attention in both directions.

    Args:
        dim: d.
        dropout: Dropout probability of clips and words in the similarities.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.clip_score, self.word_score, self.pair_score = (nn.Parameter(torch.empty(dim)) for _ in range(3))
        self.fuse, self.merge = nn.Linear(4 * dim, dim), nn.Linear(2 * dim, dim)
        self.pool = AdaptivePool(dim)
        for vector in (self.clip_score, self.word_score, self.pool.score):
            nn.init.xavier_uniform_(vector.data.unsqueeze(1))
        nn.init.xavier_uniform_(self.pair_score.data.view(1, 1, dim))

    def forward(self, given: Aligned) -> Tensor:
        """Fuse aligned clips and words to clips (B, T, d)."""
        clips, words = given.clips, given.words
        some_clips, some_words = self.dropout(clips), self.dropout(words)
        similarity = (some_clips * self.pair_score + self.word_score) @ some_words.transpose(1, 2)
        similarity = similarity + (some_clips @ self.clip_score).unsqueeze(2)  # (B, T, L)
        over_words = similarity.masked_fill(~given.word_mask.unsqueeze(1), -torch.inf).softmax(dim=2)
        over_clips = similarity.masked_fill(~given.clip_mask.unsqueeze(2), -torch.inf).softmax(dim=1)
        attended = over_words @ words
        returned = over_words @ (over_clips.transpose(1, 2) @ clips)
        fused = self.fuse(torch.cat([clips, attended, clips * attended, clips * returned], dim=2))
        query = self.pool(words, given.word_mask).unsqueeze(1)
        return F.relu(self.merge(torch.cat([fused, query.expand_as(fused)], dim=2)))


class Highlighter(nn.Linear):
    """Sum of the outputs of a linear layer, divided by √d; it is computed as one product with the sum of its rows."""

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (B, T, d) to scores (B, T)."""
        return (x @ self.weight.sum(dim=0) + self.bias.sum()) / math.sqrt(self.in_features)


class TRDETR(DetrModel):
    """TR-DETR with the options of its official configuration.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        text_layers: Number of layers in which clips attend to words.
        encoder_layers: Number of layers in which clips attend to each other, run twice.
        decoder_layers: Number of decoder layers.
        num_queries: M.
        options: Options of every ``DetrModel``.
    """

    criterion = TrDetrCriterion

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        text_layers: int = 2,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        num_queries: int = 10,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(video_dim, text_dim, levels, **options)
        require_at_least(1, text_layers=text_layers, encoder_layers=encoder_layers)
        sizes = self.sizes
        self.fuser = Fuser(sizes.dim, sizes.dropout)
        self.text_layers = nn.ModuleList(TextToVideoLayer(*sizes, nn.PReLU()) for _ in range(text_layers))
        self.layers = nn.ModuleList(EncoderLayer(*sizes, nn.PReLU()) for _ in range(encoder_layers))
        xavier(self.text_layers)
        xavier(self.layers)
        self.decoder = DabDecoder(sizes, layers=decoder_layers, num_queries=num_queries)
        self.read_cut = nn.GRU(sizes.dim, sizes.dim, batch_first=True)
        self.saliency = Highlighter(sizes.dim, sizes.dim)

    def ground(self, given: Aligned, labels: Batch | None) -> DetrOutput:
        """Ground aligned words in aligned clips."""
        clips, mask = self.fuser(given), given.clip_mask
        for layer in self.text_layers:
            clips = layer(clips, given.positions, given.words, given.word_mask)
        memory = self.encode(clips, given)
        highlights = self.saliency(memory).masked_fill(~mask, -torch.inf).softmax(dim=1)
        memory = self.encode(memory + highlights.unsqueeze(2) * clips, given)
        moments = self.decoder(memory, given.positions, mask)

        logits = foreground(moments.logits)
        best = logits[:, -1].argmax(dim=1)
        retrieved = moments.spans[torch.arange(len(best), device=best.device), -1, best]
        states, _ = self.read_cut(cut(given.clips, retrieved, mask))
        last = (mask.sum(dim=1) - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        likeness = (given.clips * states.gather(1, last)).sum(dim=2, keepdim=True)
        return TrDetrOutput(
            class_logits=logits,
            references=moments.spans,
            saliency=self.saliency(memory * (1 + likeness)),
            dense=memory,
            query=given.words[:, 0],
            video=given.clips.unsqueeze(1),
            text=masked_mean(given.words, given.word_mask).unsqueeze(1),
            both_logits=moments.logits,
            words=given.words,
        )

    def encode(self, clips: Tensor, given: Aligned) -> Tensor:
        """Let clips (B, T, d) attend to each other."""
        for layer in self.layers:
            clips = layer(clips, given.positions, given.clip_mask)
        return clips


def cut(clips: Tensor, spans: Tensor, mask: Tensor) -> Tensor:
    """Move the clips of one moment to the front, and replace the others with 0.

    Args:
        clips: (B, T, d).
        spans: (B, 2) centre and width, as shares of the valid clips.
        mask: (B, T) true for valid clips.

    Returns:
        (B, T, d).
    """
    count = mask.sum(dim=1, keepdim=True)
    first, last = (cw_to_se(spans) * count).floor().long().chunk(2, dim=1)
    first = torch.where(first < 0, first + count, first)
    index = first + torch.arange(clips.shape[1], device=clips.device)
    inside = (index <= last) & (index < count)
    moved = clips.take_along_dim(index.clamp(max=clips.shape[1] - 1).unsqueeze(2), dim=1)
    return moved.masked_fill(~inside.unsqueeze(2), 0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, d) of the valid rows of ``x`` (B, N, d), which are among the first N of ``mask``."""
    mask = mask[:, : x.shape[1]].unsqueeze(2)
    return x.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1)


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``TRDETR``.

    Raises:
        UserError: A name is unknown.
    """
    # The official code stores vectors and linear layers of the fuser as matrices and convolutions of width 1.
    return {
        name: value.squeeze() if name.startswith("fuser.") else value
        for name, value in renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED).items()
    }
