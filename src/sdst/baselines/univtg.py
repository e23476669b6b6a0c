"""UniVTG: one encoder over clips and words, and a moment predicted from each clip (``model=univtg``).

Source: Lin et al., UniVTG: Towards Unified Video-Language Temporal Grounding, ICCV 2023, and its official code: with
the official weights (``convert_official``), outputs, losses and gradients are the same.

Kept from that code, although one would expect otherwise:

* The point of clip t lies at t + half of a clip's *seconds*, not at t + half a clip: for clips of 2 s this is the
  clip's end, for clips of 1 s its middle (option ``point``).
* Saliency compares the projected clips with the words, before the encoder.
* Other queries about the same video count as negatives.

*Reading*: the positive clip of the highlight losses is drawn from the clips with votes, not from all annotated ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from sdst.baselines.detr.adaptive import TokenTypes
from sdst.baselines.detr.criterion import BACKGROUND_WEIGHT, DetrOutput, giou_loss
from sdst.baselines.detr.layers import EncoderLayer, xavier
from sdst.baselines.detr.model import DetrModel
from sdst.baselines.detr.official import PROJECTIONS, encoder_names, renamed
from sdst.errors import UserError
from sdst.losses.alignment import info_nce
from sdst.losses.criterion import TERMS, Criterion, Terms
from sdst.losses.moment import averaged, matched_moments, mean_of
from sdst.losses.points import TOLERANCE
from sdst.losses.saliency import no_negatives
from sdst.models.checks import require_at_least
from sdst.models.layers import AdaptivePool
from sdst.spans import cw_to_se, se_to_cw
from sdst.types import Anchors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdst.baselines.detr.inputs import Aligned
    from sdst.types import Batch, Output

OFFICIAL_NAMES = {
    **PROJECTIONS,
    **encoder_names(r"transformer\.encoder", "encoder"),
    "token_type_embeddings": "types",
    "class_embed": "read_class",
    "span_embed": "read_offsets",
    r"weightedpool\.weight": "pool_text.score",
}
"""Pattern of the official code's names -> name in ``UniVTG``."""
OFFICIAL_UNUSED = ("txt_position_embed.",)
"""Beginnings of official names without effect: positions of words."""


class UniVTGCriterion(Criterion):
    """Losses of UniVTG, on the point of each clip.

    Foreground points lie inside a true moment, see ``assign_clips``. ``cls`` is the cross-entropy of the class,
    background weighted 0.1, averaged over all points; ``l1`` the smooth L1 distance of start plus that of end, averaged
    over foreground points; ``iou`` the mean of 1 - generalised IoU of these points; ``inter`` contrasts each sample's
    positive clip with the queries of the batch, and its query with their positive clips; ``intra`` contrasts the
    positive clip with less salient clips of its video, and with the clips at its place in the other videos.
    """

    terms: ClassVar[tuple[str, ...]] = (*TERMS, "inter", "intra")

    def losses(self, output: Output, batch: Batch) -> Terms:
        """Return the function of every term."""
        anchors = output.anchors
        assert anchors is not None
        assignment = assign_clips(anchors, batch)
        foreground, predicted = (assignment >= 0).unsqueeze(1), output.references
        true = matched_moments(batch.moments, assignment.unsqueeze(1))
        return self.contrastive_terms(output, batch) | {
            "cls": lambda: class_loss(output.class_logits[:, 0], assignment >= 0, anchors),
            "l1": lambda: averaged(distance_loss(predicted, true), foreground).squeeze(0),
            "iou": lambda: averaged(giou_loss(predicted, true), foreground).squeeze(0),
            "inter": lambda: self.contrast_samples(output, batch),
            "intra": lambda: self.contrast_clips(output, batch),
        }

    def contrast_samples(self, output: Output, batch: Batch) -> Tensor:
        """InfoNCE of positive clips and queries over the batch, the sum of both directions."""
        used, positive = positive_clips(output, batch)
        clips = output.dense.take_along_dim(positive.view(-1, 1, 1), dim=1).squeeze(1)
        losses = 2 * info_nce(clips, output.query, _unused_pairs(used), temperature=self.temperature)
        return mean_of(losses, used)

    def contrast_clips(self, output: Output, batch: Batch) -> Tensor:
        """Mean of -log softmax at the positive clip over less salient clips, plus that over its place in all videos."""
        used, positive = positive_clips(output, batch)
        scores = F.cosine_similarity(output.dense, output.query.unsqueeze(1), dim=-1) / self.temperature
        read, index = scores.shape[1], positive.unsqueeze(1)
        valid, saliency = batch.video_mask[:, :read], batch.saliency[:, :read]
        candidate = (valid & (saliency < saliency.gather(1, index))).scatter(1, index, value=True)
        scores = scores.masked_fill(~candidate, -torch.inf)
        rows = scores.log_softmax(dim=1).gather(1, index).squeeze(1)
        places = scores[:, positive].masked_fill(_unused_pairs(used), -torch.inf)
        columns = places.log_softmax(dim=0).diagonal()
        return mean_of(-rows - columns, used)


def positive_clips(output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B,) true for samples with a positive clip among the clips that were read, and (B,) this clip, else the first."""
    positive = batch.positive_clip
    used = (positive >= 0) & (positive < output.dense.shape[1])
    return used, positive.masked_fill(~used, 0)


def _unused_pairs(used: Tensor) -> Tensor:
    """(B, B) true for pairs of different samples that are not both ``used`` (B,), be they of one video or not."""
    return no_negatives(torch.arange(len(used), device=used.device), used)


def class_loss(logits: Tensor, foreground: Tensor, anchors: Anchors) -> Tensor:
    """Cross-entropy of the class: sum over the points of all videos / their number; arguments are (B, A)."""
    weight = torch.where(foreground, 1.0, BACKGROUND_WEIGHT) * anchors.mask
    target = foreground.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return losses / anchors.mask.sum()


def distance_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """Smooth L1 distance of start plus that of end of each (centre, width) pair (..., 2)."""
    return F.smooth_l1_loss(cw_to_se(predicted), cw_to_se(true), reduction="none").sum(dim=-1)


def assign_clips(anchors: Anchors, batch: Batch) -> Tensor:
    """Assign each clip the last true moment that contains its point.

    If no point lies in a moment of a sample, the clip in which its first moment starts is assigned that moment.

    Returns:
        (B, A) int64 index of the clip's moment, -1 if there is none.
    """
    # One extra moment that does not exist, so that there is a maximum if G = 0.
    moments, moment_mask = F.pad(batch.moments, (0, 0, 0, 1)), F.pad(batch.moment_mask, (0, 1))
    start, end = (
        (cw_to_se(moments) * batch.num_clips.view(-1, 1, 1)).unsqueeze(1).unbind(dim=-1)
    )  # (B, 1, G), in clips
    position = anchors.position.unsqueeze(1)
    inside = (start - TOLERANCE <= position) & (position <= end + TOLERANCE)
    inside &= moment_mask.unsqueeze(1) & anchors.mask.unsqueeze(2)
    number = torch.arange(moments.shape[1], device=moments.device)
    assignment = number.where(inside, -1).amax(dim=2)
    missed = moment_mask[:, :1] & (assignment < 0).all(dim=1, keepdim=True)
    clip = torch.arange(len(anchors.position), device=moments.device)
    starts = (start[:, 0, :1] + TOLERANCE).floor() == clip
    return assignment.masked_fill(missed & starts & anchors.mask, 0)


class ConvHead(nn.ModuleList):
    """Three convolutions (kernel 3) along the clips, with ReLU between them; padded clips count as zero.

    Args:
        dim: d.
        width_out: Number of outputs per clip.
    """

    def __init__(self, dim: int, width_out: int) -> None:
        first, second, last = (nn.Conv1d(dim, width, 3, padding=1) for width in (dim, dim, width_out))
        super().__init__([first, nn.ReLU(), second, nn.ReLU(), last])

    def forward(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Map clips (B, T, d) with their mask (B, T) to (B, T, width_out)."""
        x, exists = clips.transpose(1, 2), mask.unsqueeze(1)
        for module in self:
            x = module(x * exists) if isinstance(module, nn.Conv1d) else module(x)
        return x.transpose(1, 2)


class UniVTG(DetrModel):
    """UniVTG with the options of its official configuration; those not listed are ``DetrModel``'s.

    Args:
        video_dim: Dv, read from the feature store.
        text_dim: Dt, read from the feature store.
        levels: K of the features, of which the last one is read.
        encoder_layers: Number of encoder layers.
        point: Place of a clip's point in the clip, from 0 at its start to 1 at its end. The official value is half of
            the clip's seconds, so 1 for clips of 2 s and 0.5 for clips of 1 s. For clips longer than 2 s the official
            points would lie in later clips, and the last ones after the end of the video, so 1 is the upper limit.
        add_class: Whether the class probability is added to the saliency, as in the official evaluation.

    Raises:
        UserError: An option is out of range.
    """

    criterion = UniVTGCriterion

    def __init__(
        self,
        video_dim: int,
        text_dim: int,
        levels: int,
        *,
        dim: int = 1024,
        heads: int = 8,
        ffn_ratio: int = 1,
        encoder_layers: int = 4,
        dropout: float = 0.5,
        layer_dropout: float = 0.0,
        drop_path: float = 0.1,
        normalize: bool = True,
        places: bool = True,
        max_clips: int | None = None,
        max_words: int | None = None,
        point: float = 1.0,
        add_class: bool = True,
    ) -> None:
        super().__init__(
            video_dim,
            text_dim,
            levels,
            dim=dim,
            heads=heads,
            ffn_ratio=ffn_ratio,
            dropout=dropout,
            layer_dropout=layer_dropout,
            drop_path=drop_path,
            normalize=normalize,
            places=places,
            max_clips=max_clips,
            max_words=max_words,
        )
        require_at_least(1, encoder_layers=encoder_layers)
        if not 0 <= point <= 1:
            raise UserError(f"model.point must lie in [0, 1], got {point}")
        self.point, self.add_class = point, add_class
        self.types = TokenTypes(dim)
        self.encoder = nn.ModuleList(EncoderLayer(*self.sizes, nn.GELU()) for _ in range(encoder_layers))
        xavier(self.encoder)
        self.read_class, self.read_offsets = ConvHead(dim, 1), ConvHead(dim, 2)
        self.pool_text = AdaptivePool(dim)
        nn.init.xavier_uniform_(self.pool_text.score.data.unsqueeze(1))

    def ground(self, given: Aligned, labels: Batch | None) -> DetrOutput:
        """Ground aligned words in aligned clips."""
        given = self.types(given)
        words, clips = given.words, given.clips
        query = self.pool_text(words, given.word_mask)
        memory = torch.cat([clips, words], dim=1)
        positions = torch.cat([given.positions, torch.zeros_like(words)], dim=1)
        mask = torch.cat([given.clip_mask, given.word_mask], dim=1)
        for layer in self.encoder:
            memory = layer(memory, positions, mask)
        encoded = memory[:, : clips.shape[1]]

        class_logits = self.read_class(encoded, given.clip_mask).squeeze(-1)
        back, ahead = (
            self.read_offsets(encoded, given.clip_mask).sigmoid().unbind(dim=-1)
        )  # shares of the video
        position = torch.arange(clips.shape[1], device=clips.device) + self.point
        time = position / given.clip_mask.sum(dim=1, keepdim=True)
        saliency = F.cosine_similarity(clips, query.unsqueeze(1), dim=-1)
        return DetrOutput(
            class_logits=class_logits.unsqueeze(1),
            references=se_to_cw(torch.stack([time - back, time + ahead], dim=-1)).unsqueeze(1),
            saliency=saliency + class_logits.sigmoid() if self.add_class else saliency,
            dense=clips,
            query=query,
            video=clips.unsqueeze(1),
            text=query.unsqueeze(1),
            anchors=Anchors(
                position=position,
                stride=torch.ones_like(position),
                reach=torch.tensor([0, torch.inf], device=clips.device).expand(len(position), -1),
                mask=given.clip_mask,
            ),
        )


def convert_official(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of the official code to one of ``UniVTG``.

    Raises:
        UserError: A name is unknown.
    """
    converted = renamed(weights, OFFICIAL_NAMES, OFFICIAL_UNUSED)
    # The official vector that scores words for pooling is a matrix of one column.
    return {
        name: value.flatten() if name == "pool_text.score" else value for name, value in converted.items()
    }
