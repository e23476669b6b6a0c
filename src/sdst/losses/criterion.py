"""The training objective: the weighted sum of all loss terms (eq. 14)."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sdst.errors import UserError
from sdst.losses.alignment import level_alignment, video_alignment
from sdst.losses.denoising import denoising_losses
from sdst.losses.matcher import match
from sdst.losses.moment import (
    actionness_loss,
    averaged,
    focal_errors,
    iou_loss,
    l1_loss,
    matched_moments,
    summed,
)
from sdst.losses.points import assign_points, boundary_loss
from sdst.losses.saliency import sampled_nce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from sdst.types import Batch, Output

TERMS = ("cls", "l1", "iou", "act", "sal", "video", "layer")
MATCH_COSTS = ("cls", "l1", "iou")
OVER_LEVELS = ("sum", "mean")
Terms = dict[str, "Callable[[], Tensor]"]
"""Name -> function that computes the term."""


class Criterion(nn.Module):
    """Computes the loss terms whose weight is not zero, in float32 under any autocast.

    Readings, where the paper does not say:

    * The matching cost at each level is the sum of focal class, L1 and IoU costs, weighted by ``match_weights``.
    * ``cls``, ``l1`` and ``iou`` are summed over levels, like DETR's auxiliary losses, or averaged, and divided by the
      number of true moments in the batch (at least 1), which with several processes is the batch of all of them.
      Initial references that are proposals of the model enter these three as one more level, as in DINO. The losses of
      noised true moments (``sdst.losses.denoising``) are added to those of each level.
    * ``act`` and ``sal`` only use the last level; ``video`` and ``layer`` are averaged over levels.
    * Two samples of one video are not used as negatives of each other in ``sal`` and ``video``.
    * The columns of ``sal`` are R2-Tuning's (see ``sampled_nce``).

    An output with anchors has no queries to match. Its moment terms are R2-Tuning's: points are assigned to moments
    (``sdst.losses.points``), ``cls`` is averaged over all points of the batch, ``l1`` is the mean distance of
    boundaries in strides, ``iou`` is averaged over the points with a moment, and ``act`` does not exist.

    Args:
        weights: Weight of every term: cls (eq. 17), l1 (18), iou (19), act (20), sal (12), video (21) and
            layer (22). A term with weight 0 is not computed.
        match_weights: Weights of the matching costs cls, l1 and iou.
        alpha: Weight of matched queries in the focal loss and the focal matching cost, 1 - alpha for unmatched ones;
            None gives both weight 1.
        gamma: Exponent of the focal loss and the focal matching cost.
        temperature: Divisor of the cosines in the three contrastive losses.
        over_levels: ``sum`` or ``mean`` of ``cls``, ``l1`` and ``iou`` over the levels.

    Raises:
        UserError: A key is missing or unknown, a weight is negative or not finite, all weights are 0, or a constant
            is out of range.
    """

    terms: ClassVar[tuple[str, ...]] = TERMS
    """Names of all terms, in the order of the log; a model whose losses differ extends them."""

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        match_weights: Mapping[str, float],
        alpha: float | None = 0.25,
        gamma: float = 2.0,
        temperature: float = 0.07,
        over_levels: str = "sum",
    ) -> None:
        super().__init__()
        self.weights = _checked("loss.weights", weights, self.terms)
        self.match_weights = _checked("loss.match_weights", match_weights, MATCH_COSTS)
        if alpha is not None and not 0 <= alpha <= 1:
            raise UserError(f"loss.alpha must be in [0, 1], or null, got {alpha}")
        if not (math.isfinite(gamma) and gamma >= 0):
            raise UserError(f"loss.gamma must be finite and at least 0, got {gamma}")
        if not (math.isfinite(temperature) and temperature > 0):
            raise UserError(f"loss.temperature must be finite and positive, got {temperature}")
        if over_levels not in OVER_LEVELS:
            raise UserError(f"loss.over_levels must be one of {', '.join(OVER_LEVELS)}, got {over_levels!r}")
        self.alpha, self.gamma, self.temperature = alpha, gamma, temperature
        self.averaged = ("video", "cls", "l1", "iou") if over_levels == "mean" else ("video",)

    def forward(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted total and each computed term, unweighted; all are float32 scalars."""
        return self.combine(self.by_level(output, batch))

    def combine(self, by_level: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the result of ``forward`` from the result of ``by_level``."""
        terms = {
            name: values.mean() if name in self.averaged else values.sum()
            for name, values in by_level.items()
        }
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        return total, terms

    def by_level(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Compute each term whose weight is not 0, unweighted, in float32, per level where levels have separate losses.

        ``cls``, ``l1``, ``iou`` are (K,), or (K + 1,) with the proposals first, but scalars for anchor-based models;
        ``video`` is (K,); the others are scalars.
        """
        with torch.autocast(output.class_logits.device.type, enabled=False):
            compute = self.losses(_float32(output), batch)
            return {name: compute[name]() for name in self.terms if self.weights[name]}

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term; functions rather than values, so that a term that is off costs nothing."""
        moment_terms = self._query_terms if output.anchors is None else self._point_terms
        return moment_terms(output, batch) | self.contrastive_terms(output, batch)

    def contrastive_terms(self, output: Output, batch: Batch) -> Terms:
        """Return the highlight term and the alignment terms, which do not depend on moments."""
        return {
            "sal": lambda: sampled_nce(
                output.dense,
                output.query,
                batch.saliency,
                batch.video_mask,
                batch.positive_clip,
                batch.video_index,
                temperature=self.temperature,
            ),
            "video": lambda: video_alignment(
                output.video,
                output.text,
                batch.positive_clip,
                batch.video_index,
                temperature=self.temperature,
            ),
            "layer": lambda: level_alignment(
                output.video, output.text, batch.positive_clip, temperature=self.temperature
            ),
        }

    def _query_terms(self, output: Output, batch: Batch) -> Terms:
        """Return the moment terms of a model with queries, which are matched level by level."""
        num_moments = batch.moment_mask.sum().clamp(min=1)
        class_logits, references = output.class_logits, output.references
        if output.proposal_logits is not None:
            assert output.initial_references is not None
            class_logits = torch.cat([output.proposal_logits.unsqueeze(1), class_logits], dim=1)
            references = torch.cat([output.initial_references.unsqueeze(1), references], dim=1)
        if any(self.weights[name] for name in ("cls", "l1", "iou")):
            assignment = match(
                class_logits,
                references,
                batch.moments,
                batch.moment_mask,
                self.match_weights,
                alpha=self.alpha,
                gamma=self.gamma,
            )
            matched = assignment >= 0
            true = matched_moments(batch.moments, assignment)

        def act() -> Tensor:
            assert output.actionness is not None
            return actionness_loss(
                output.actionness, output.references[:, -1], batch.moments, batch.moment_mask
            )

        terms: Terms = {
            "cls": lambda: (
                focal_errors(class_logits, matched, alpha=self.alpha, gamma=self.gamma).sum(dim=(0, 2))
                / num_moments
            ),
            "l1": lambda: summed(l1_loss(references, true), matched) / num_moments,
            "iou": lambda: summed(iou_loss(references, true), matched) / num_moments,
            "act": act,
        }
        return terms if output.denoised_logits is None else self._with_denoising(terms, output, batch)

    def _with_denoising(self, terms: Terms, output: Output, batch: Batch) -> Terms:
        """Add the losses of noised moments to those of their levels."""
        assert output.denoised_logits is not None
        assert output.denoised_references is not None
        noised = denoising_losses(
            output.denoised_logits,
            output.denoised_references,
            batch.moments,
            batch.moment_mask,
            alpha=self.alpha,
            gamma=self.gamma,
        )

        def added(name: str) -> Tensor:
            matched = terms[name]()  # the proposals' level comes first, if there is one
            return matched + F.pad(noised[name], (len(matched) - len(noised[name]), 0))

        return terms | {name: partial(added, name) for name in MATCH_COSTS}

    def _point_terms(self, output: Output, batch: Batch) -> Terms:
        """Return the moment terms of an anchor-based model, whose points are assigned to moments."""
        anchors = output.anchors
        assert anchors is not None
        assignment = assign_points(anchors, batch.moments, batch.moment_mask, batch.num_clips).unsqueeze(1)
        matched, exists = assignment >= 0, anchors.mask.unsqueeze(1)
        true = matched_moments(batch.moments, assignment)

        def cls() -> Tensor:
            errors = focal_errors(output.class_logits, matched, alpha=self.alpha, gamma=self.gamma)
            return summed(errors, exists).squeeze(0) / exists.sum()

        return {
            "cls": cls,
            "l1": lambda: boundary_loss(
                output.references[:, 0], batch.moments, assignment[:, 0], anchors, batch.num_clips
            ),
            "iou": lambda: averaged(iou_loss(output.references, true), matched).squeeze(0),
        }


def _checked(name: str, weights: Mapping[str, float], expected: tuple[str, ...]) -> dict[str, float]:
    if set(weights) != set(expected):
        unknown, missing = sorted(set(weights) - set(expected)), sorted(set(expected) - set(weights))
        raise UserError(
            f"{name} must have exactly the keys {', '.join(expected)}; "
            f"unknown: {', '.join(unknown) or 'none'}, missing: {', '.join(missing) or 'none'}"
        )
    for key, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"{name}.{key} must be finite and at least 0, got {weight}")
    if not any(weights.values()):
        raise UserError(f"{name} must have at least one positive weight, but all are 0")
    return {key: float(weights[key]) for key in expected}


def _float32(output: Output) -> Output:
    values = {f.name: getattr(output, f.name) for f in fields(output)}
    tensors: dict[str, Any] = {
        name: value.float() for name, value in values.items() if isinstance(value, torch.Tensor)
    }
    return replace(output, **tensors)
