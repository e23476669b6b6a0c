"""The frame of every DETR method: options they share, aligned inputs, and an output on the clips of the whole video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from torch import nn

from sdst.baselines.detr.criterion import ContrastCriterion, DetrOutput
from sdst.baselines.detr.inputs import Inputs
from sdst.baselines.detr.layers import LayerSizes
from sdst.models.checks import check_levels, require_at_least, require_heads, require_probabilities

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.losses.criterion import Criterion
    from sdst.types import Batch


class SameOptions(TypedDict, total=False):
    """Options of ``DetrModel`` whose defaults are the same for every method."""

    dim: int
    heads: int
    ffn_ratio: int
    dropout: float
    layer_dropout: float
    normalize: bool
    places: bool
    max_clips: int | None


class Options(SameOptions, total=False):
    """Options of ``DetrModel``, which every method accepts."""

    drop_path: float
    max_words: int | None


class DetrModel(nn.Module, ABC):
    """Aligns the inputs; a method's ``ground`` does the rest.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        dim: d.
        heads: H, of every attention.
        ffn_ratio: Hidden width of the feed-forward networks, in d.
        dropout: Dropout probability before each linear layer of the projections.
        layer_dropout: Dropout probability in the layers of encoder and decoder.
        drop_path: Probability of dropping a whole residual update; if it is 0, single elements are dropped
            instead, with probability ``layer_dropout``.
        normalize: Whether features are divided by their length.
        places: Whether each clip's start and end, as shares of the video, are two more features.
        max_clips: Number of clips that are read; None for all.
        max_words: Number of words that are read; None for all.

    Attributes:
        criterion: Losses of the method.
    """

    criterion: ClassVar[type[Criterion]] = ContrastCriterion

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        dim: int = 256,
        heads: int = 8,
        ffn_ratio: int = 4,
        dropout: float = 0.5,
        layer_dropout: float = 0.1,
        drop_path: float = 0.0,
        normalize: bool = True,
        places: bool = True,
        max_clips: int | None = 75,
        max_words: int | None = 32,
    ) -> None:
        super().__init__()
        require_heads(dim, heads)
        require_at_least(1, levels=levels, ffn_ratio=ffn_ratio)
        require_probabilities(layer_dropout=layer_dropout, drop_path=drop_path)
        self.levels = levels
        self.sizes = LayerSizes(dim, heads, ffn_ratio, layer_dropout, drop_path)
        self.inputs = Inputs(
            video_dim,
            text_dim,
            dim,
            dropout=dropout,
            normalize=normalize,
            places=places,
            max_clips=max_clips,
            max_words=max_words,
        )

    def forward(
        self,
        video: Tensor,
        video_mask: Tensor,
        text: Tensor,
        text_mask: Tensor,
        num_clips: Tensor,
        *,
        labels: Batch | None = None,
    ) -> DetrOutput:
        """Ground a batch of queries in their videos.

        Args:
            video: As in ``Batch.inputs``, like the next four.
            video_mask: (B, T).
            text: (B, K, L, Dt).
            text_mask: (B, L).
            num_clips: (B,).
            labels: In training, the batch with its labels; methods with losses on inner results read it.
        """
        check_levels(self.levels, video=video, text=text)
        output = self.ground(
            self.inputs(video, video_mask, text, text_mask), labels if self.training else None
        )
        mapped: dict[str, Any] = {}
        for name in output.spans:
            if (spans := getattr(output, name)) is not None:
                mapped[name] = self.to_video(spans, video_mask, num_clips)
        for name in output.per_clip:
            if (scores := getattr(output, name)) is not None:
                mapped[name] = self.inputs.to_all_clips(scores, video_mask)
        return replace(output, **mapped)

    def to_video(self, references: Tensor, video_mask: Tensor, num_clips: Tensor) -> Tensor:
        """Map the moments of ``ground`` to shares of the video."""
        return self.inputs.to_video(references, video_mask, num_clips)

    @abstractmethod
    def ground(self, given: Aligned, labels: Batch | None) -> DetrOutput:
        """Ground aligned words in aligned clips; times and saliency are those of the clips that were read.

        Args:
            given: Clips and words.
            labels: The batch with its labels, in training.
        """
