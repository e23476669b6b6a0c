"""QD-DETR: clips that attend to the query's words, and DAB queries (``model=qd_detr``).

Source: Moon et al., Query-Dependent Video Representation for Moment Retrieval and Highlight Detection, CVPR 2023, and
its official code: with the official weights (``convert_official``), outputs, losses and gradients are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import torch
from torch import nn

from sdst.baselines.detr.criterion import DetrOutput
from sdst.baselines.detr.decoder import DabDecoder, foreground
from sdst.baselines.detr.layers import EncoderLayer, GlobalSaliency, TextToVideoLayer, with_token, xavier
from sdst.baselines.detr.model import DetrModel, Options
from sdst.baselines.detr.official import DAB, PROJECTIONS, encoder_names, renamed
from sdst.models.checks import require_at_least

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.baselines.detr.layers import LayerSizes
    from sdst.types import Batch

OFFICIAL_NAMES = {
    **PROJECTIONS,
    **encoder_names(r"transformer\.t2v_encoder", "encoder.text_layers"),
    **encoder_names(r"transformer\.encoder", "encoder.layers"),
    **DAB,
    "global_rep_token": "encoder.token",
    "global_rep_pos": "encoder.token_position",
    "saliency_proj1": "saliency.clip",
    "saliency_proj2": "saliency.whole",
}
"""Pattern of the official code's names -> name in ``QDDETR``."""
OFFICIAL_UNUSED = ("txt_position_embed.",)
"""Beginnings of official names without effect: positions of words."""


class QueryDependentEncoder(nn.Module):
    """Clips attend to words, then to each other and to a learned global token.

    Args:
        sizes: Sizes of every layer.
        text_layers: Number of layers in which clips attend to words.
        layers: Number of layers in which clips attend to each other.
    """

    def __init__(self, sizes: LayerSizes, *, text_layers: int, layers: int) -> None:
        super().__init__()
        require_at_least(1, text_layers=text_layers, encoder_layers=layers)
        dim = sizes.dim
        self.text_layers = nn.ModuleList(TextToVideoLayer(*sizes, nn.PReLU()) for _ in range(text_layers))
        self.layers = nn.ModuleList(EncoderLayer(*sizes, nn.PReLU()) for _ in range(layers))
        xavier(self)
        self.token, self.token_position = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(dim))

    def forward(self, given: Aligned) -> tuple[Tensor, Tensor]:
        """Encode clips with their words: (B, T, d) clips and (B, d) global token."""
        return self.encode(self.read_words(given), given)

    def read_words(self, given: Aligned) -> Tensor:
        """Let clips attend to words: (B, T, d) clips."""
        clips = given.clips
        for layer in self.text_layers:
            clips = layer(clips, given.positions, given.words, given.word_mask)
        return clips

    def encode(self, clips: Tensor, given: Aligned) -> tuple[Tensor, Tensor]:
        """Let clips (B, T, d) and the global token attend to each other: (B, T, d) clips and (B, d) token."""
        whole, clips = with_token(
            self.layers, self.token, self.token_position, clips, given.positions, given.clip_mask
        )
        return clips, whole


class QDDETR(DetrModel):
    """QD-DETR with the options of its official configuration.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        text_layers: Number of layers in which clips attend to words.
        encoder_layers: Number of layers in which clips attend to each other.
        decoder_layers: Number of decoder layers.
        num_queries: M.
        options: Options of every ``DetrModel``.
    """

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
        self.encoder = QueryDependentEncoder(self.sizes, text_layers=text_layers, layers=encoder_layers)
        self.decoder = DabDecoder(self.sizes, layers=decoder_layers, num_queries=num_queries)
        self.saliency = GlobalSaliency(self.sizes.dim)

    def ground(self, given: Aligned, labels: Batch | None) -> DetrOutput:
        """Ground aligned words in aligned clips, in training also the words of the next sample."""
        memory, whole = self.encoder(given)
        moments = self.decoder(memory, given.positions, given.clip_mask)
        has_negatives = self.training and len(memory) > 1
        return DetrOutput(
            class_logits=foreground(moments.logits),
            references=moments.spans,
            saliency=self.saliency(memory, whole),
            dense=memory,
            query=whole,
            video=given.clips.unsqueeze(1),
            text=given.words[:, :1],
            negative_saliency=self.saliency(*self.encoder(given.rolled())) if has_negatives else None,
        )


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``QDDETR``.

    Raises:
        UserError: A name is unknown.
    """
    return renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED)
