"""CG-DETR: clips attend to words as far as the query is about them, else to dummies (``model=cg_detr``).

Source: Moon et al., Correlation-Guided Query-Dependency Calibration for Video Temporal Grounding, arXiv 2023, and its
official code: with the official weights (``convert_official``), outputs, losses and gradients are the same.

Two things of the official code are left out: it counts padding in means over clips and words, and misses a part of the
highlight losses (``highlight_terms``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.adaptive import (
    AdaptiveLayers,
    AdaptiveOutput,
    Dummies,
    TokenTypes,
    differs_from_next,
    highlight_terms,
    words_share,
)
from sdst.baselines.detr.criterion import SetCriterion
from sdst.baselines.detr.decoder import DabDecoder, foreground
from sdst.baselines.detr.layers import EncoderLayer, GlobalSaliency, with_token, xavier
from sdst.baselines.detr.model import DetrModel, SameOptions
from sdst.baselines.detr.official import ADAPTIVE, DAB, PROJECTIONS, encoder_names, renamed
from sdst.baselines.detr.tokens import Guide, GuidedOutput, redundancy
from sdst.errors import UserError
from sdst.losses.moment import mean_of
from sdst.models.checks import require_at_least

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdst.baselines.detr.adaptive import Attended
    from sdst.baselines.detr.inputs import Aligned
    from sdst.baselines.detr.layers import LayerSizes
    from sdst.losses.criterion import Terms
    from sdst.types import Batch, Output

OFFICIAL_NAMES = {
    **PROJECTIONS,
    **ADAPTIVE,
    **DAB,
    "global_rep_token": "encoder.prompts",
    "global_rep_pos": "encoder.position",
    **encoder_names(r"transformer\.mcls_encoder", "guide.moment_layers"),
    "moment_rep_token": "guide.moment",
    "moment_rep_pos": "guide.moment_position",
    **encoder_names("scls_encoder", "guide.sentence_layers"),
    "sent_rep_token": "guide.sentence",
    "sent_rep_pos": "guide.sentence_position",
}
"""Pattern of the official code's names -> name in ``CGDETR``."""
OFFICIAL_UNUSED = ("txt_position_embed.", "txt_proj_linear.")
"""Beginnings of official names without effect: positions of words, a projection that nothing calls."""


class CGCriterion(SetCriterion):
    """Losses of Moment-DETR, but ``sal`` and ``attn`` as in ``highlight_terms``, and in training three more.

    * ``align``: a moment is similar to its own sentence, and to the clips that are relevant;
    * ``distill``: the attention of relevant clips to dummies and words follows their similarity;
    * ``ortho``: dummies, and saliency prompts, differ from each other.
    """

    terms = (*SetCriterion.terms, "attn", "align", "distill", "ortho")

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        assert isinstance(output, AdaptiveOutput)
        terms = super().losses(output, batch) | highlight_terms(output, batch)
        if not isinstance(output, GuidedOutput):
            return terms | dict.fromkeys(self.terms[-3:], lambda: output.saliency.new_zeros(()))
        return terms | {
            "align": lambda: align_loss(output, batch),
            "distill": lambda: distill_loss(output, batch),
            "ortho": lambda: output.redundancy.mean(),
        }


def align_loss(output: GuidedOutput, batch: Batch) -> Tensor:
    """Contrast of moments and sentences, and cross-entropy of each clip's membership in the moment.

    The classes of a sample are the cosines of its moment, and of the rest of its video, with all B sentences; its
    moment with its own sentence should be highest. With the dummies' sentences, any other class may be: *reading* the
    official code, the target is class 1 for the first sample and class 0 for all others.

    Membership gets no gradient where it is wrong but certain, because probabilities round to 0 or 1, as in that
    code.
    """
    own = torch.arange(len(output.moment), device=output.moment.device)
    moments = F.normalize(torch.stack([output.moment, output.rest]), dim=-1)  # (2, B, d)
    loss = output.moment.new_zeros(())
    for sentences, target in ((output.sentence, own), (output.dummy_sentence, (own == 0).long())):
        similarity = moments @ F.normalize(sentences, dim=-1).T  # (2, B, B)
        loss = loss + F.cross_entropy(torch.cat([*similarity], dim=1), target)
    mask, relevant = _clips(output, batch)
    member = output.member_logits.sigmoid()
    cross_entropy = F.binary_cross_entropy(member, relevant.to(member.dtype), reduction="none")
    return loss + mean_of(cross_entropy, mask)


def distill_loss(output: GuidedOutput, batch: Batch) -> Tensor:
    """Mean divergence of the relevant clips."""
    _, relevant = _clips(output, batch)
    return mean_of(output.divergence, relevant)


def _clips(output: GuidedOutput, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, T) masks of the clips that were read: valid ones, and relevant ones."""
    read = output.divergence.shape[1]
    return batch.video_mask[:, :read], relevant_clips(batch)[:, :read]


def relevant_clips(batch: Batch) -> Tensor:
    """(B, T) true for clips with votes."""
    return (batch.saliency > 0) & batch.video_mask


class CalibratedEncoder(nn.Module):
    """Clips attend to dummies and words, then to each other and to a saliency token.

    Args:
        sizes: Sizes of every layer.
        text_layers: Number of layers in which clips attend to dummies and words.
        layers: Number of layers in which clips attend to each other.
        prompts: Number of vectors that the saliency token is chosen from.
        top_prompts: Number of vectors that are chosen.
    """

    def __init__(
        self, sizes: LayerSizes, *, text_layers: int, layers: int, prompts: int, top_prompts: int
    ) -> None:
        super().__init__()
        require_at_least(1, encoder_layers=layers, top_prompts=top_prompts)
        if top_prompts > prompts:
            raise UserError(f"model.top_prompts must be at most model.prompts = {prompts}, got {top_prompts}")
        self.text_layers = AdaptiveLayers(sizes, text_layers)
        self.layers = nn.ModuleList(EncoderLayer(*sizes, nn.PReLU()) for _ in range(layers))
        xavier(self)
        self.top_prompts = top_prompts
        self.prompts = nn.Parameter(torch.randn(prompts, sizes.dim))
        self.position = nn.Parameter(torch.randn(1, sizes.dim))

    def compare(self, given: Aligned) -> tuple[Tensor, Tensor]:
        """Compare clips with prompts, whatever the words: (B, d) mean clip, (B, T, P) share of prompts in a clip."""
        mask = given.clip_mask.unsqueeze(2)
        mean = (given.clips.detach() * mask).sum(dim=1) / mask.sum(dim=1)
        unusual = F.normalize(given.clips - mean.unsqueeze(1), dim=-1)
        return mean, (unusual @ F.normalize(self.prompts, dim=-1).T).softmax(dim=-1)

    def forward(
        self, given: Aligned, attended: Attended, mean: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode clips with their words.

        Args:
            given: Clips.
            attended: Dummies and words.
            mean: (B, d) mean clip, from ``compare``.
            shares: (B, T, P) share of prompts in a clip, from ``compare``.

        Returns:
            (B, T, d) clips, (B, d) saliency token, and (B, T, n + L) attention weights.
        """
        clips, weights = self.text_layers(given.clips, given.positions, attended)
        # The token's prompts are those of the clips that attend to words.
        importance = weights.detach()[..., attended.dummies.shape[1] :].sum(dim=-1) * given.clip_mask
        importance = importance / importance.sum(dim=1, keepdim=True)
        value, chosen = torch.einsum("bt,btp->bp", importance, shares).topk(self.top_prompts, dim=1)
        token = (torch.einsum("bk,bkd->bd", value, self.prompts[chosen]) + mean).unsqueeze(1)
        token = self.text_layers.without_words(token)
        whole, clips = with_token(self.layers, token, self.position, clips, given.positions, given.clip_mask)
        return clips + whole.unsqueeze(1), whole, weights


class CGDETR(DetrModel):
    """CG-DETR with the options of its official configuration.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        text_layers: Number of layers in which clips attend to dummies and words.
        encoder_layers: Number of layers in which clips attend to each other.
        decoder_layers: Number of decoder layers.
        dummy_layers: Number of layers that encode the dummies with the words.
        moment_layers: Number of layers of the moment's token, in training.
        sentence_layers: Number of layers of the sentence's token, in training.
        num_queries: M.
        dummies: Number of dummies.
        prompts: Number of vectors that the saliency token is chosen from.
        top_prompts: Number of vectors that are chosen.
        drop_path: Probability of dropping a whole residual update.
        max_words: Number of words that are read; None for all.
        options: Options of every ``DetrModel``.
    """

    criterion = CGCriterion

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        text_layers: int = 2,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        dummy_layers: int = 2,
        moment_layers: int = 1,
        sentence_layers: int = 1,
        num_queries: int = 10,
        dummies: int = 45,
        prompts: int = 10,
        top_prompts: int = 1,
        drop_path: float = 0.1,
        max_words: int | None = 32,
        **options: Unpack[SameOptions],
    ) -> None:
        super().__init__(video_dim, text_dim, levels, drop_path=drop_path, max_words=max_words, **options)
        self.types = TokenTypes(self.sizes.dim)
        self.dummies = Dummies(self.sizes, layers=dummy_layers, count=dummies)
        self.encoder = CalibratedEncoder(
            self.sizes,
            text_layers=text_layers,
            layers=encoder_layers,
            prompts=prompts,
            top_prompts=top_prompts,
        )
        self.decoder = DabDecoder(self.sizes, layers=decoder_layers, num_queries=num_queries)
        self.saliency = GlobalSaliency(self.sizes.dim)
        self.guide = Guide(self.sizes, moment_layers=moment_layers, sentence_layers=sentence_layers)

    def ground(self, given: Aligned, labels: Batch | None) -> AdaptiveOutput:
        """Ground aligned words in aligned clips; in training also the next sample's words, and what the guide adds."""
        given = self.types(given)
        attended = self.dummies(given.words, given.word_mask)
        compared = self.encoder.compare(given)
        memory, whole, weights = self.encoder(given, attended, *compared)
        moments = self.decoder(memory, given.positions, given.clip_mask)
        output = AdaptiveOutput(
            class_logits=foreground(moments.logits),
            references=moments.spans,
            saliency=self.saliency(memory, whole),
            dense=memory,
            query=whole,
            video=given.clips.unsqueeze(1),
            text=given.words[:, :1],
            attention=words_share(weights, attended),
        )
        if labels is None:
            return output

        wrong = attended.rolled()
        wrong_memory, wrong_whole, wrong_weights = self.encoder(given, wrong, *compared)
        relevant = relevant_clips(labels)[:, : given.clips.shape[1]]
        return GuidedOutput(
            **vars(output)
            | {
                "negative_saliency": self.saliency(wrong_memory, wrong_whole),
                "negative_attention": words_share(wrong_weights, wrong),
                "has_negative": differs_from_next(labels),
                "redundancy": redundancy(attended.dummies) + redundancy(self.encoder.prompts),
            }
            | self.guide(given, attended, self.dummies.positions, weights, relevant),
        )


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``CGDETR``.

    Raises:
        UserError: A name is unknown.
    """
    return renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED)
