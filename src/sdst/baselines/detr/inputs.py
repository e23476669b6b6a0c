"""The inputs of the DETR methods: normalised features with clip places, projected to one width, and clip positions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from sdst.models.checks import require_at_least, require_probabilities
from sdst.models.layers import alignment, interleaved, with_places

if TYPE_CHECKING:
    from torch import Tensor

NORM_EPSILON = 1e-5
"""Added to a feature's length before it is divided by it, as in the data sets of the official code."""


class Aligned(NamedTuple):
    """Clips and words at width d.

    Attributes:
        clips: (B, T, d) projected clips.
        positions: (B, T, d) sines of each clip's place in its own video.
        clip_mask: (B, T) true for valid clips.
        words: (B, L, d) projected words.
        word_mask: (B, L) true for valid words.
    """

    clips: Tensor
    positions: Tensor
    clip_mask: Tensor
    words: Tensor
    word_mask: Tensor

    def rolled(self) -> Aligned:
        """Each sample with the words of the next one, the negative pairs of QD-DETR and its followers."""
        return self._replace(words=self.words.roll(-1, dims=0), word_mask=self.word_mask.roll(-1, dims=0))


class Inputs(nn.Module):
    """Cuts, normalises and projects the features of the last level.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        dim: d.
        dropout: Dropout probability before each linear layer.
        normalize: Whether each clip's and each word's features are divided by their length.
        places: Whether start and end of each clip, as shares of the video's clips, are two more features ("tef").
        max_clips: Number of clips that are read, from the start of the video; None for all.
        max_words: Number of words that are read; None for all.
    """

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        dim: int,
        *,
        dropout: float,
        normalize: bool,
        places: bool,
        max_clips: int | None,
        max_words: int | None,
    ) -> None:
        super().__init__()
        require_probabilities(dropout=dropout)
        for name, most in (("max_clips", max_clips), ("max_words", max_words)):
            if most is not None:
                require_at_least(1, **{name: most})
        self.dim, self.normalize, self.places = dim, normalize, places
        self.max_clips, self.max_words = max_clips, max_words
        self.video = alignment(video_dim + 2 * places, dim, dropout)
        self.text = alignment(text_dim, dim, dropout)

    def forward(self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor) -> Aligned:
        """Align the last level of a batch; arguments as for every model, see ``Batch.inputs``."""
        clip_mask, word_mask = video_mask[:, : self.max_clips], text_mask[:, : self.max_words]
        clips, words = video[:, -1:, : self.max_clips], text[:, -1, : self.max_words]
        dtype = next(self.parameters()).dtype
        clips, words = clips.to(dtype), words.to(dtype)
        if self.normalize:
            clips, words = (x / (x.norm(dim=-1, keepdim=True) + NORM_EPSILON) for x in (clips, words))
        if self.places:
            # Queries about one video share its features and its length.
            clips = with_places(clips, clip_mask[: len(clips)])
        count = clip_mask.sum(dim=1, keepdim=True)
        index = torch.arange(1, clip_mask.shape[1] + 1, device=clip_mask.device)
        positions = interleaved(2 * math.pi * index / (count + 1e-6), self.dim).to(dtype)
        return Aligned(
            self.video(clips).squeeze(1).expand(len(text), -1, -1),
            positions,
            clip_mask,
            self.text(words),
            word_mask,
        )

    def to_video(self, spans: Tensor, video_mask: Tensor, num_clips: Tensor) -> Tensor:
        """Map (B, ...) shares of the clips that were read, such as (centre, width), to shares of the video.

        Nothing changes for a video whose clips are all read.
        """
        if self.max_clips is None or self.max_clips >= video_mask.shape[1]:
            return spans
        read = torch.where(video_mask.sum(dim=1) > self.max_clips, self.max_clips / num_clips, 1)
        return spans * read.view(-1, *[1] * (spans.dim() - 1))

    def to_all_clips(self, scores: Tensor, video_mask: Tensor) -> Tensor:
        """Scores (B, T) of all clips, from those of the clips that were read; the others get the lowest score."""
        missing = video_mask.shape[1] - scores.shape[1]
        if not missing:
            return scores
        valid = video_mask[:, : scores.shape[1]]
        lowest = scores.masked_fill(~valid, torch.inf).amin(dim=1, keepdim=True)
        return torch.cat([scores, lowest.expand(-1, missing)], dim=1)
