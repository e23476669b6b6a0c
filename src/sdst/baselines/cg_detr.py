"""CG-DETR: clips that attend to words or to dummies, as much as the query is about them (``model=cg_detr``).

Source: Moon et al., Correlation-Guided Query-Dependency Calibration for Video Temporal Grounding, arXiv 2023, and its
official code: with the official weights (``convert_official``), outputs, losses and gradients are the same.

Not kept from the official code: losses that its training misses by mistake (``highlight_terms``); shares of the padded
batch's length in means. Kept: the targets of the dummies' sentences (``CGCriterion``).
"""

from __future__ import annotations

from dataclasses import dataclass
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
from sdst.baselines.detr.model import DetrModel, Options
from sdst.baselines.detr.official import ADAPTIVE, DAB, PROJECTIONS, encoder_names, renamed
from sdst.errors import UserError
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
LEAST_WEIGHT = 1e-6
"""Added to attention weights before their logarithm."""


@dataclass(kw_only=True)
class CGOutput(AdaptiveOutput):
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


class CGCriterion(SetCriterion):
    """Losses of CG-DETR: those of Moment-DETR with ``sal`` and ``attn`` as in ``highlight_terms``, and in training

    * ``align``: a moment is similar to its own sentence, and to the clips that are relevant;
    * ``distill``: relevant clips attend to dummies and words as they are similar to them;
    * ``ortho``: dummies, and saliency prompts, differ from each other.
    """

    terms = (*SetCriterion.terms, "attn", "align", "distill", "ortho")

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        assert isinstance(output, AdaptiveOutput)
        terms = super().losses(output, batch) | highlight_terms(output, batch)
        if not isinstance(output, CGOutput):
            return terms | dict.fromkeys(self.terms[-3:], lambda: output.saliency.new_zeros(()))
        return terms | {
            "align": lambda: align_loss(output, batch),
            "distill": lambda: distill_loss(output, batch),
            "ortho": lambda: output.redundancy.mean(),
        }


def align_loss(output: CGOutput, batch: Batch) -> Tensor:
    """Contrast of moments and sentences, and cross-entropy of each clip's membership in the moment.

    Each moment is classified as that of its own sentence, among all sentences with all moments and all rests of videos.
    *Reading*: the target of a dummies' sentence is "any moment but its own"; as in the official code, this is the
    second column for the first sample, and the first column for all others.

    Membership has no gradient where it is surely wrong, because its probability is 0 or 1 in float32, as there.
    """
    own = torch.arange(len(output.moment), device=output.moment.device)
    moments = F.normalize(torch.stack([output.moment, output.rest]), dim=-1)  # (2, B, d)
    loss = output.moment.new_zeros(())
    for sentences, target in ((output.sentence, own), (output.dummy_sentence, (own == 0).long())):
        similarity = moments @ F.normalize(sentences, dim=-1).T  # (2, B, B)
        loss = loss + F.cross_entropy(torch.cat([*similarity], dim=1), target)
    mask, relevant = _clips(output, batch)
    member = output.member_logits[mask].sigmoid()
    return loss + F.binary_cross_entropy(member, relevant[mask].to(member.dtype))


def distill_loss(output: CGOutput, batch: Batch) -> Tensor:
    """Mean divergence of the relevant clips."""
    _, relevant = _clips(output, batch)
    return output.divergence[relevant].sum() / relevant.sum().clamp(min=1)


def _clips(output: CGOutput, batch: Batch) -> tuple[Tensor, Tensor]:
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
        """Compare clips with prompts, whatever the words: (B, d) mean clip, (B, T, P) share of each prompt in a clip."""
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
            mean: (B, d) and the next from ``compare``.
            shares: (B, T, P).

        Returns:
            (B, T, d) clips, (B, d) saliency token, and (B, T, n + L) attention weights.
        """
        clips, weights = self.text_layers(given.clips, given.positions, attended)
        # The token's prompts are those of the clips that attend to words.
        importance = weights.detach()[..., attended.dummies.shape[1] :].sum(dim=-1) * given.clip_mask
        importance = importance / importance.sum(dim=1, keepdim=True)
        value, chosen = torch.einsum("bt,btp->bp", importance, shares).topk(self.top_prompts, dim=1)
        token = (torch.einsum("bk,bkd->bd", value, self.prompts[chosen]) + mean).unsqueeze(1)
        for layer in self.text_layers:
            token = layer.without_words(token)
        whole, clips = with_token(
            self.layers, token, self.position, clips, given.positions, given.clip_mask
        )
        return clips + whole.unsqueeze(1), whole, weights


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
        """Compute the fields of ``CGOutput``, but for ``redundancy``.

        Args:
            given: Clips and words before they attend to anything.
            attended: Dummies and words.
            positions: (n, d) positions of the dummies.
            weights: (B, T, n + L) attention weights of the clips.
            relevant: (B, T) true for relevant clips.
        """
        (moment, inside), (rest, outside) = (
            with_token(
                self.moment_layers, self.moment, self.moment_position, given.clips, given.positions, mask
            )
            for mask in (relevant, given.clip_mask & ~relevant)
        )
        frames = torch.where(relevant.unsqueeze(2), inside, outside)
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
            similarity = inside @ torch.cat([dummies, words], dim=1).transpose(1, 2)
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
        **options: Unpack[Options],
    ) -> None:
        super().__init__(video_dim, text_dim, levels, **options)
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
        """Ground aligned words in aligned clips; in training also the next sample's words, and what guides attention."""
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
        return CGOutput(
            **vars(output)
            | {
                "negative_saliency": self.saliency(wrong_memory, wrong_whole),
                "negative_attention": words_share(wrong_weights, wrong),
                "has_negative": differs_from_next(labels),
                "redundancy": redundancy(attended.dummies) + redundancy(self.encoder.prompts),
            }
            | self.guide(given, attended, self.dummies.positions, weights, relevant),
        )


def redundancy(tokens: Tensor) -> Tensor:
    """(...) mean of |cosine| of different tokens (..., n, d), over n² pairs; the second of a pair gets no gradient."""
    unit = F.normalize(tokens, dim=-1)
    cosine = unit @ unit.detach().transpose(-1, -2)
    other = 1 - torch.eye(tokens.shape[-2], dtype=cosine.dtype, device=cosine.device)
    return (cosine.abs() * other).mean(dim=(-2, -1))


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``CGDETR``.

    Raises:
        UserError: A name is unknown.
    """
    return renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED)
