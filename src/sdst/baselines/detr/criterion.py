"""The set criterion of DETR with one matching per decoder layer, and the highlight losses of its followers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from sdst.baselines.detr.highlights import clip_pairs, margin_loss, rank_loss, votes, wrong_words_loss
from sdst.losses.criterion import Criterion, Terms
from sdst.losses.matcher import assign
from sdst.losses.moment import averaged, matched_moments
from sdst.spans import aligned_giou, cw_to_se, pairwise_giou
from sdst.types import Output

if TYPE_CHECKING:
    from torch import Tensor

    from sdst.types import Batch

BACKGROUND_WEIGHT = 0.1
"""Weight of queries without a moment in the class loss."""


@dataclass
class DetrOutput(Output):
    """The output of a DETR method, whose levels are the layers of its decoder.

    Attributes:
        negative_saliency: (B, T) saliency for the words of the next sample, in training; else None.
        per_clip: Fields with one score per clip.
        spans: Fields with moments, as ``DetrModel.to_video`` maps them.
    """

    per_clip: ClassVar[tuple[str, ...]] = ("saliency", "negative_saliency")
    spans: ClassVar[tuple[str, ...]] = ("references",)

    negative_saliency: Tensor | None = None


class SetCriterion(Criterion):
    """Losses of Moment-DETR, summed over decoder layers.

    ``cls`` is the cross-entropy of each query's class, background weighted 0.1, averaged over all queries; ``l1`` the
    mean distance of centre and width over matched pairs; ``iou`` the mean of 1 - generalised IoU; ``sal`` the margin
    between clips.
    """

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        assignment = self.assign(output, batch)
        matched, predicted = assignment >= 0, output.references
        true = matched_moments(batch.moments, assignment)
        return self.contrastive_terms(output, batch) | {
            "cls": lambda: self.class_loss(output, matched),
            "l1": lambda: averaged(
                (self.coordinates(predicted) - self.coordinates(true)).abs().mean(dim=-1), matched
            ),
            "iou": lambda: averaged(giou_loss(predicted, true), matched),
            "sal": lambda: self.saliency_loss(output, batch),
        }

    @torch.no_grad()
    def assign(self, output: Output, batch: Batch) -> Tensor:
        """Match queries to moments at the cost l1 - generalised IoU - class probability, each weighted; (B, K, M)."""
        predicted, true = output.references, batch.moments[:, None]
        ours, theirs = self.coordinates(predicted).unsqueeze(-2), self.coordinates(true).unsqueeze(-3)
        l1 = (ours - theirs).abs().sum(dim=-1)
        giou = pairwise_giou(cw_to_se(predicted), cw_to_se(true))
        probability = output.class_logits.sigmoid().unsqueeze(-1)
        weights = self.match_weights
        cost = weights["l1"] * l1 - weights["iou"] * giou - weights["cls"] * probability
        return assign(cost, batch.moment_mask)

    def coordinates(self, spans: Tensor) -> Tensor:
        """Map (centre, width) to the coordinates (..., 2) whose distance ``l1`` measures."""
        return spans

    def class_loss(self, output: Output, matched: Tensor) -> Tensor:
        """(K,) class loss of every decoder layer; ``matched`` (B, K, M) is true for queries with a moment."""
        weight = torch.where(matched, 1.0, BACKGROUND_WEIGHT)
        target = matched.to(output.class_logits.dtype)
        losses = F.binary_cross_entropy_with_logits(output.class_logits, target, weight, reduction="none")
        return losses.mean(dim=(0, 2))

    def saliency_loss(self, output: Output, batch: Batch) -> Tensor:
        """The highlight loss of the last layer."""
        return margin_loss(output.saliency, clip_pairs(batch))


class ContrastCriterion(SetCriterion):
    """Losses of QD-DETR and its followers: ``sal`` adds ranks, and in training the words of the next sample."""

    def saliency_loss(self, output: Output, batch: Batch) -> Tensor:
        """Sum of margin, rank and wrong words."""
        assert isinstance(output, DetrOutput)
        negatives = output.negative_saliency
        loss = super().saliency_loss(output, batch)
        loss = loss + rank_loss(output.saliency, negatives, votes(batch), batch.video_mask)
        return loss if negatives is None else loss + wrong_words_loss(negatives, batch.video_mask)


def giou_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """1 - generalised IoU of each (centre, width) pair (..., 2)."""
    return 1 - aligned_giou(cw_to_se(predicted), cw_to_se(true))
