"""BAM-DETR: moments from an anchor and its boundaries, ranked by their quality (``model=bam_detr``).

Source: Lee and Byun, BAM-DETR: Boundary-Aligned Moment Detection Transformer for Temporal Sentence Grounding in Videos,
ECCV 2024, and its official code: with the official weights (``convert_official``), outputs, losses and gradients are
the same.

Adapted: the forward pass changes no parameter, where the official one overwrites queries that lead out of the video;
the numbers are the same. Padding is ignored by the convolutions, the points around boundaries and the targets of
boundaries. Parameters without effect are left out (``OFFICIAL_UNUSED``), so ``class_logits`` are those of the quality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Unpack

import torch
import torch.nn.functional as F

from sdst.baselines.detr.boundaries import BoundaryDecoder
from sdst.baselines.detr.criterion import ContrastCriterion, DetrOutput
from sdst.baselines.detr.layers import GlobalSaliency
from sdst.baselines.detr.model import DetrModel, Options
from sdst.baselines.detr.official import renamed
from sdst.baselines.qd_detr import OFFICIAL_NAMES as QD_NAMES
from sdst.baselines.qd_detr import QueryDependentEncoder
from sdst.losses.criterion import TERMS, Terms
from sdst.losses.moment import best_iou
from sdst.spans import cw_to_se, se_to_cw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.types import Batch, Output

OFFICIAL_NAMES = {
    **{
        rf"transformer\.decoder\.boundary_layers\.(\d+)\.(\d+)\.{official}": rf"decoder.layers.\1.sides.\2.{ours}"
        for official, ours in {
            r"boundary_deformation\.point_offsets": "offsets",
            r"boundary_deformation\.point_weights": "weights",
            r"boundary_deformation\.value_proj": "value",
            r"boundary_deformation\.output_proj": "out",
            "(linear1|linear2|activation)": r"ffn.\3",
            "(norm2|norm3)": r"\3",
        }.items()
    },
    **{
        rf"transformer\.decoder\.boundary_conv_{side}\.{2 * conv}": f"decoder.features.{index}.{conv}"
        for index, side in enumerate(("left", "right"))
        for conv in range(3)
    },
    r"transformer\.decoder\.query_scale\.0": "decoder.scale_sine",
    r"transformer\.tgt_embed\.weight": "decoder.content",
    r"transformer\.saliency_proj1": "saliency.clip",
    r"transformer\.saliency_proj2": "saliency.whole",
    r"transformer\.decoder\.bbox_embed\.(\d+)\.(\d+)": r"decoder.layers.\1.refine.\2",
    "quality_pred": "decoder.read_quality",
    **{
        name: ours.replace(r"decoder.layers.\1", r"decoder.layers.\1.anchor")
        for name, ours in QD_NAMES.items()
    },
}
"""Pattern of the official code's names -> name in ``BAMDETR``."""
OFFICIAL_UNUSED = (
    *("txt_position_embed.", "transformer.txt_encoder.", "global_rep_token_txt", "global_rep_pos_txt"),
    *("class_embed.", "transformer.decoder.query_scale.1.", "transformer.decoder.query_scale.2."),
    "transformer.decoder.ref_point_head_boundary.",
    *(f"transformer.decoder.boundary_layers.{i}.{side}.norm1." for i in range(2) for side in range(2)),
    *("saliency_proj", "span_embed."),
)
"""Beginnings of official names without effect, and at the end those of weights that have two names."""
OVERLAPS = (0.3, 0.7)
"""Limits between the three groups of moments whose quality errors have equal weight."""
INWARD, OUTWARD = 0.1, 0.25
"""Reach of a boundary into its moment and out of it, in lengths of the moment."""


@dataclass
class BamDetrOutput(DetrOutput):
    """The output of BAM-DETR; moments may reach beyond the video.

    Attributes:
        boundaries: (B, T, 2) in [0, 1), how much each clip looks like a start and like an end.
    """

    boundaries: Tensor | None = None


class BamDetrCriterion(ContrastCriterion):
    """Losses of BAM-DETR.

    ``l1`` is the distance of start and end; ``act`` the error of the predicted overlap at every decoder layer;
    ``boundary`` a cross-entropy of clips near the starts and ends of moments.
    """

    terms = (*TERMS, "boundary")

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        assert isinstance(output, BamDetrOutput)
        return super().losses(output, batch) | {
            "act": lambda: quality_loss(output, batch),
            "boundary": lambda: boundary_loss(output, batch),
        }

    @torch.no_grad()
    def assign(self, output: Output, batch: Batch) -> Tensor:
        """Match queries, cut to the video, to moments; (B, K, M)."""
        inside = se_to_cw(cw_to_se(output.references).clamp(0, 1))
        return super().assign(replace(output, references=inside), batch)

    def coordinates(self, spans: Tensor) -> Tensor:
        """Map (centre, width) to (start, end)."""
        return cw_to_se(spans)


def quality_loss(output: Output, batch: Batch) -> Tensor:
    """(K,) error of the predicted overlap: the mean of three means, over moments of low, middle and high overlap.

    A group without moments in the batch counts as 0.
    """
    predicted = output.class_logits.sigmoid()
    inside = cw_to_se(output.references.detach()).clamp(0, 1)
    true = best_iou(inside.flatten(1, 2), batch.moments, batch.moment_mask).view(predicted.shape)
    group = torch.bucketize(true, true.new_tensor(OVERLAPS))  # an overlap of 0.3 is low, 0.7 is middle
    members = F.one_hot(group, 3).to(predicted.dtype)  # (B, K, M, 3)
    sums = torch.einsum("bkm,bkmg->kg", (predicted - true).abs(), members)
    return (sums / members.sum(dim=(0, 2)).clamp(min=1)).mean(dim=1)


def boundary_loss(output: BamDetrOutput, batch: Batch) -> Tensor:
    """Cross-entropy of "near a start" and "near an end", where near clips weigh as much as all others together.

    Returns:
        Scalar: the mean loss of each of the two groups, averaged over groups, both boundaries and samples.
    """
    predicted = output.boundaries
    assert predicted is not None
    seen = batch.video_mask[:, : predicted.shape[1]].unsqueeze(2)  # (B, T, 1)
    moments = cw_to_se(batch.moments) * batch.num_clips.view(-1, 1, 1)  # (B, G, 2), in clips
    length = moments[..., 1:] - moments[..., :1]
    reach = moments.new_tensor([[OUTWARD, INWARD], [INWARD, OUTWARD]])  # before and after start and end
    first, last = (moments - length * reach[:, 0]).unsqueeze(1), (moments + length * reach[:, 1]).unsqueeze(1)
    middle = (torch.arange(predicted.shape[1], device=predicted.device) + 0.5).view(1, -1, 1, 1)
    near = (middle >= first) & (middle <= last) & batch.moment_mask[:, None, :, None]  # (B, T, G, 2)
    target = near.any(dim=2) & seen
    loss = F.binary_cross_entropy(predicted, target.to(predicted.dtype), reduction="none")
    means = [(loss * group).sum(dim=1) / group.sum(dim=1).clamp(min=1) for group in (target, ~target & seen)]
    return torch.stack(means).sum(dim=0).mean() / 2


class BAMDETR(DetrModel):
    """BAM-DETR with the options of its official configuration.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        text_layers: Number of layers in which clips attend to words.
        encoder_layers: Number of layers in which clips attend to each other.
        decoder_layers: Number of decoder layers.
        num_queries: M.
        options: Options of every ``DetrModel``.

    Attributes:
        has_actionness: Whether the model predicts ``Output.actionness``, which the term ``act`` trains.
    """

    criterion = BamDetrCriterion
    has_actionness: ClassVar[bool] = True

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
        self.decoder = BoundaryDecoder(self.sizes, layers=decoder_layers, num_queries=num_queries)
        self.saliency = GlobalSaliency(self.sizes.dim)

    def ground(self, given: Aligned, labels: Batch | None) -> DetrOutput:
        """Ground aligned words in aligned clips, in training also the words of the next sample."""
        clips = self.encoder.read_words(given)
        memory, whole = self.encoder.encode(clips, given)
        moments = self.decoder(memory, clips, given.positions, given.clip_mask)
        has_negatives = self.training and len(memory) > 1
        return BamDetrOutput(
            class_logits=moments.quality,
            references=moments.spans,
            saliency=self.saliency(memory, whole),
            dense=memory,
            query=whole,
            video=given.clips.unsqueeze(1),
            text=given.words[:, :1],
            actionness=moments.quality[:, -1].sigmoid(),
            negative_saliency=self.saliency(*self.encoder(given.rolled())) if has_negatives else None,
            boundaries=moments.boundaries,
        )


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``BAMDETR``.

    Raises:
        UserError: A name is unknown.
    """
    return renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED)
