"""SG-DETR: saliency from clips and words alone guides attention and decoder (``model=sg_detr``).

Source: Gordeev et al., Saliency-Guided DETR for Moment Retrieval and Highlight Detection, arXiv 2410.01615, 2024.
Checked against descriptions only, not against the official code: no official weights, outputs or losses were compared.

*Reading*, here and in ``sdst.baselines.detr.guided``, ``.proposals``, ``.atss`` and ``.collaborative``: sizes,
formulas and losses are those of a public repository that builds on the method (github.com/chinagalaxy2002/SG_CGP,
commit 931cad1). It was read, not run.

Options: ``model.second_head=true`` adds the second head on the pyramid (``.atss``), whose positives become further
queries in training (``.collaborative``); ``decode.nms=fusion`` joins the moments of both (``sdst.models.fusion``).

Left out: the alignment of moment and sentence tokens, which only guides training. The published results include it,
the second head and the fusion, and the best ones also pre-training on InterVid-MR.

Adapted:

* Linear layers are initialised as in the other DETR methods.
* Keys of the decoder's self-attention read the queries' places; in the repository, these places projected for queries.
* Collaborative queries go through the decoder by themselves; in the repository, a mask keeps them and the others apart.
* Padding is never read; the repository pads each video to a multiple of four clips and counts these as clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.adaptive import TokenTypes, differs_from_next
from sdst.baselines.detr.atss import AtssHead, assign_anchors, atss_losses
from sdst.baselines.detr.collaborative import CollaborativeQueries, collaborative_losses
from sdst.baselines.detr.criterion import DetrOutput, SetCriterion, giou_loss
from sdst.baselines.detr.guided import GuidedDecoder, GuidedEncoder, LocalSaliency
from sdst.baselines.detr.highlights import clip_pairs, margin_loss, rank_loss, real_rank_loss, votes
from sdst.baselines.detr.model import DetrModel, SameOptions
from sdst.baselines.detr.proposals import Pyramid, Selector
from sdst.errors import UserError
from sdst.losses.matcher import assign
from sdst.losses.moment import averaged, matched_moments, mean_of
from sdst.spans import aligned_iou, cw_to_se, pairwise_giou

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.baselines.detr.proposals import Level
    from sdst.losses.criterion import Terms
    from sdst.types import Batch, Output

MARGIN = 0.15
"""A pair costs nothing if the saliency of its first clip, after a sigmoid, is higher by at least this."""
PROPOSAL_WEIGHT = 0.5
"""Weight of the proposals' losses, that of every decoder layer being 1."""
SECOND_WEIGHTS = {"cls": 0.4, "l1": 0.01, "iou": 2.0, "act": 0.5}
"""Weights of the second head's losses (2, 0.1, 2, 0.5), divided by those of every decoder layer (5, 10, 1, 1)."""


@dataclass
class GuidedOutput(DetrOutput):
    """The output of SG-DETR, whose first level is the proposals and whose others are the decoder's layers.

    Attributes:
        local_saliency: (B, T) saliency from projected clips and words alone.
        negative_local_saliency: (B, T) the same for the words of the next sample, in training; else None.
        has_negative: (B,) whether the next sample is about another source video, in training; else None.
        quality_logits: (B, K, M) logit of the predicted IoU with the true moment, per level.
        second_anchors: (B, A, 2) (centre, width) of the second head's anchors; None without it.
        collaborative_logits: (B, K - 1, N) class logits of collaborative queries after each decoder layer, in training
            with a second head; else None, like the next two.
        collaborative_references: (B, K - 1, N, 2) the moments of these.
        collaborative_points: (B, N) index of the point in 0..A-1 of each.
    """

    per_clip: ClassVar[tuple[str, ...]] = (
        *DetrOutput.per_clip,
        "local_saliency",
        "negative_local_saliency",
    )
    spans: ClassVar[tuple[str, ...]] = (
        *DetrOutput.spans,
        "second_references",
        "second_anchors",
        "collaborative_references",
    )

    local_saliency: Tensor | None = None
    negative_local_saliency: Tensor | None = None
    has_negative: Tensor | None = None
    quality_logits: Tensor | None = None
    second_anchors: Tensor | None = None
    collaborative_logits: Tensor | None = None
    collaborative_references: Tensor | None = None
    collaborative_points: Tensor | None = None


class GuidedCriterion(SetCriterion):
    """Losses of SG-DETR.

    ``cls`` is the cross-entropy of each query's class, background weighted 0.1, averaged over all queries; ``l1`` the
    smooth L1 distance of centre and width, averaged over both and over matched pairs; ``iou`` the mean of
    1 - generalised IoU; ``act`` the cross-entropy of the predicted IoU of matched queries; all are summed over decoder
    layers, and half of the proposals' are added. A second head's losses (``atss_losses``) are one more level, and those
    of collaborative queries (``collaborative_losses``) are added to those of their decoder layers. ``sal`` has four
    parts for local and final saliency each: the cross-entropy of relevant clips, that of wrong words, margins, ranks.
    """

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        assert isinstance(output, GuidedOutput)
        assignment = self.assign(output, batch)
        matched, predicted = assignment >= 0, output.references
        true = matched_moments(batch.moments, assignment)
        weight = torch.tensor([PROPOSAL_WEIGHT] + [1.0] * (matched.shape[1] - 1), device=matched.device)
        terms = super().losses(output, batch) | {
            "cls": lambda: weight * self.class_loss(output, matched),
            "l1": lambda: weight * averaged(distance_loss(predicted, true), matched),
            "iou": lambda: weight * averaged(giou_loss(predicted, true), matched),
            "act": lambda: weight * averaged(quality_loss(output, true), matched),
        }
        return terms if output.second_logits is None else with_second_head(terms, output, batch)

    @torch.no_grad()
    def assign(self, output: Output, batch: Batch) -> Tensor:
        """Match queries to moments; (B, K, M).

        The cost is l1 - generalised IoU - class probability, each weighted, minus the predicted IoU if it is trained,
        with the weight of the generalised IoU.
        """
        assert isinstance(output, GuidedOutput)
        assert output.quality_logits is not None
        predicted, true = output.references, batch.moments[:, None]
        weights = self.match_weights
        cost = weights["l1"] * (predicted[..., None, :] - true[..., None, :, :]).abs().sum(dim=-1)
        cost = cost - weights["iou"] * pairwise_giou(cw_to_se(predicted), cw_to_se(true))
        score = weights["cls"] * output.class_logits.sigmoid()
        if self.weights["act"]:
            score = score + weights["iou"] * output.quality_logits.sigmoid()
        return assign(cost - score.unsqueeze(-1), batch.moment_mask)

    def saliency_loss(self, output: Output, batch: Batch) -> Tensor:
        """The highlight loss of local and final saliency."""
        assert isinstance(output, GuidedOutput)
        assert output.local_saliency is not None
        local = highlight_loss(
            output.local_saliency, output.negative_local_saliency, output.has_negative, batch
        )
        return local + highlight_loss(output.saliency, output.negative_saliency, output.has_negative, batch)


def with_second_head(terms: Terms, output: GuidedOutput, batch: Batch) -> Terms:
    """Add the losses of the second head and, in training, of the collaborative queries."""
    assert output.second_anchors is not None
    assert output.second_mask is not None
    exists = output.second_mask.bool()  # the criterion gets floating-point numbers
    assignment = assign_anchors(output.second_anchors, exists, output.dense.shape[1], batch)
    second = atss_losses(output, output.second_anchors, assignment, batch)
    collaborative: dict[str, Tensor] = {}
    if output.collaborative_logits is not None:
        assert output.collaborative_references is not None
        assert output.collaborative_points is not None
        points = output.collaborative_points.long()
        collaborative = collaborative_losses(
            output.collaborative_logits,
            output.collaborative_references,
            assignment.gather(1, points),
            exists.gather(1, points),
            batch.moments,
        )

    def added(name: str) -> Tensor:
        losses = terms[name]()
        if name in collaborative:
            losses = losses + F.pad(collaborative[name], (1, 0))  # proposals come before the layers
        return torch.cat([losses, SECOND_WEIGHTS[name] * second[name].view(1)])

    return terms | {name: partial(added, name) for name in SECOND_WEIGHTS}


def distance_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Smooth L1 distance of each (centre, width) pair (..., 2), the mean of both."""
    return F.smooth_l1_loss(predicted, true, reduction="none").mean(dim=-1)


def quality_loss(output: GuidedOutput, true: Tensor) -> Tensor:
    """(B, K, M) cross-entropy of the predicted IoU with the true moments (B, K, M, 2)."""
    assert output.quality_logits is not None
    iou = aligned_iou(cw_to_se(output.references.detach()), cw_to_se(true))
    return F.binary_cross_entropy_with_logits(output.quality_logits, iou, reduction="none")


def highlight_loss(
    scores: Tensor, negatives: Tensor | None, has_negative: Tensor | None, batch: Batch
) -> Tensor:
    """Sum of the cross-entropy of relevant clips and of wrong words, of margins and of ranks.

    A sample whose next sample is about the same source video has no wrong words; the ranks of such samples are averaged
    separately.

    Args:
        scores: (B, T) saliency.
        negatives: (B, T) saliency for the words of the next sample, in training; else None.
        has_negative: (B,) true for samples with wrong words, in training; else None.
        batch: The batch with its labels.
    """
    labels, mask = votes(batch), batch.video_mask
    relevant = (labels > 0).to(scores.dtype)
    loss = mean_of(F.binary_cross_entropy_with_logits(scores, relevant, reduction="none"), mask)
    loss = loss + margin_loss(scores.sigmoid(), clip_pairs(batch), MARGIN)
    if negatives is None or has_negative is None:
        return loss + rank_loss(scores, None, labels, mask)
    real = has_negative.bool()
    loss = loss + mean_of(F.softplus(negatives), mask & real.unsqueeze(1))
    return loss + real_rank_loss(scores, negatives, real, labels, mask)


class SGDETR(DetrModel):
    """SG-DETR, with or without its second head.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        sentence_layers: Number of layers in which the sentence's vector reads the words.
        text_layers: Number of layers in which clips attend to words.
        encoder_layers: Number of layers in which clips attend to each other.
        decoder_layers: Number of decoder layers.
        num_queries: M.
        prior: Initial class probability.
        second_head: Whether a second head detects moments on the pyramid; its assignment of points gives the decoder
            further queries in training.
        drop_path: Probability of dropping a whole residual update.
        max_words: Number of words that are read; None for all.
        options: Options of every ``DetrModel``.

    Attributes:
        has_actionness: Whether the model predicts ``Output.actionness``, which the term ``act`` trains.

    Raises:
        UserError: An option is out of range.
    """

    criterion = GuidedCriterion
    has_actionness: ClassVar[bool] = True

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        sentence_layers: int = 2,
        text_layers: int = 2,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        num_queries: int = 25,
        prior: float = 0.35,
        second_head: bool = False,
        drop_path: float = 0.15,
        max_words: int | None = 40,
        **options: Unpack[SameOptions],
    ) -> None:
        super().__init__(video_dim, text_dim, levels, drop_path=drop_path, max_words=max_words, **options)
        dim = self.sizes.dim
        if not 0 < prior < 1:
            raise UserError(f"model.prior must lie between 0 and 1, got {prior}")
        self.local = LocalSaliency(self.sizes, sentence_layers)
        self.types = TokenTypes(dim)
        self.encoder = GuidedEncoder(self.sizes, text_layers=text_layers, layers=encoder_layers)
        self.refine_saliency = nn.Linear(dim, 1)
        nn.init.zeros_(self.refine_saliency.weight)
        nn.init.zeros_(self.refine_saliency.bias)
        self.pyramid, self.select = Pyramid(dim), Selector(dim, num_queries, prior)
        self.decoder = GuidedDecoder(self.sizes, layers=decoder_layers, prior=prior)
        # Last, so that the other parameters start the same with it and without it.
        self.second_head = AtssHead(dim, prior) if second_head else None
        self.collaborate = CollaborativeQueries(dim) if second_head else None

    def ground(self, given: Aligned, labels: Batch | None) -> GuidedOutput:
        """Ground aligned words in aligned clips, in training also the words of the next sample."""
        sentence = self.local.sentence(given.words, given.word_mask)
        typed = self.types(given)
        local, saliency, memory = self.highlights(given, typed, sentence)
        memory = amplified(memory, saliency)
        levels = self.pyramid(memory, given.clip_mask)
        moments = self.decoder(self.select(levels), memory, given.positions, given.clip_mask)
        output = GuidedOutput(
            class_logits=moments.logits,
            references=moments.spans,
            saliency=saliency,
            dense=memory,
            query=sentence,
            video=given.clips.unsqueeze(1),
            text=sentence.unsqueeze(1),
            actionness=moments.quality[:, -1].sigmoid(),
            local_saliency=local,
            quality_logits=moments.quality,
            **self.detect(levels, memory, given, labels),
        )
        if labels is None:
            return output
        wrong_local, wrong, _ = self.highlights(given, typed.rolled(), sentence.roll(-1, dims=0))
        return replace(
            output,
            negative_local_saliency=wrong_local,
            negative_saliency=wrong,
            has_negative=differs_from_next(labels),
        )

    def detect(
        self, levels: list[Level], memory: Tensor, given: Aligned, labels: Batch | None
    ) -> dict[str, Any]:
        """The fields of the second head and of the collaborative queries; none without this head."""
        if self.second_head is None or self.collaborate is None:
            return {}
        found = self.second_head(levels, given.clip_mask)
        fields = {f"second_{name}": value for name, value in found._asdict().items()}
        if labels is None:
            return fields
        anchors = self.to_video(found.anchors, labels.video_mask, labels.num_clips)
        assignment = assign_anchors(anchors, found.mask, memory.shape[1], labels)
        queries, points = self.collaborate(levels, found, assignment)
        exists = found.mask.gather(1, points)
        moments = self.decoder(queries, memory, given.positions, given.clip_mask, exists)
        fields["collaborative_logits"] = moments.logits[:, 1:]  # without the queries themselves
        fields["collaborative_references"] = moments.spans[:, 1:]
        fields["collaborative_points"] = points
        return fields

    def highlights(self, given: Aligned, typed: Aligned, sentence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute local and final saliency (B, T), and encoded clips (B, T, d)."""
        local: Tensor = self.local(given.clips, sentence)
        memory: Tensor = self.encoder(typed, local)
        correction: Tensor = self.refine_saliency(amplified(memory, local)).squeeze(-1)
        return local, local + correction, memory


def amplified(memory: Tensor, saliency: Tensor) -> Tensor:
    """Multiply each clip (B, T, d) by 1 + the sigmoid of its saliency (B, T)."""
    return memory * (1 + saliency.sigmoid().unsqueeze(-1))
