"""The data types that the packages exchange, and the letters that all shape comments use.

======  ==========================================================
``B``   samples in a batch
``T``   clips of a video (2 s each in QVHighlights), padded
``L``   tokens of a query, padded; token 0 is CLS
``K``   refinement levels, in the order of ``levels.direction``
``M``   moment queries, or the ``A`` points of an anchor-based model
``G``   true moments of a sample, padded
``H``   attention heads; ``P`` sampling points of a head
``d``   hidden width; ``Dv``, ``Dt`` widths of video and text features
======  ==========================================================

Masks are bool and true where valid. Outside the model a moment is (start, end) in seconds; inside it is
(centre, width) divided by the video's own duration. This module does not import torch, because the evaluation
runs without it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Qid = int | str
"""A query's identifier. 12 and "12" are different queries, as in the official evaluation."""


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One annotated (video, query) pair, after the quirks of its file have been repaired.

    Attributes:
        qid: The query's identifier, unique within a file.
        vid: The video's name, which is also the key of its features.
        query: The sentence.
        duration: Length of the video in seconds.
        windows: (G, 2) float64 true moments (start, end) in seconds, sorted; None where the file has no labels. A
            moment without length in the video is as it stands in the file.
        clip_scores: (number of 2 s clips, 3) int64 scores 0-4 of the three annotators, 0 where a clip is not
            relevant; None where the dataset has no saliency labels.
        clip_labels: (clips, A) float64 labels of A raters for clips spread evenly over the video: 1-5 with several
            raters (TVSum), 0 or 1 with one (YouTube Highlights); None where the dataset has none.
        domain: Domain of the video (TVSum, YouTube Highlights); None where the dataset has none.
    """

    qid: Qid
    vid: str
    query: str
    duration: float
    windows: NDArray[np.float64] | None = None
    clip_scores: NDArray[np.int64] | None = None
    clip_labels: NDArray[np.float64] | None = None
    domain: str | None = None

    @property
    def is_labelled(self) -> bool:
        """Whether a prediction for it can be evaluated."""
        return self.windows is not None or self.clip_labels is not None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """A model's prediction for one (video, query) pair.

    Attributes:
        qid: The query's identifier.
        vid: The video's name.
        query: The sentence.
        windows: (N, 3) float64 (start s, end s, score), best score first; read from a file, in the file's order.
        saliency: (T,) float64, one score per clip on any scale, higher is better; None if not predicted.
    """

    qid: Qid
    vid: str
    query: str
    windows: NDArray[np.float64]
    saliency: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        """One line; the arrays appear as the best moment and their lengths."""
        best = "".join(f", best {s:.1f}-{e:.1f} s ({score:.2f})" for s, e, score in self.windows[:1].tolist())
        clips = "no saliency" if self.saliency is None else f"saliency of {len(self.saliency)} clips"
        return (
            f"Prediction(qid={self.qid!r}, vid={self.vid!r}, query={self.query!r}, {len(self.windows)} moments{best}, "
            f"{clips})"
        )

    def to(self, device: torch.device | str) -> Prediction:
        """Return this prediction, whose arrays are in main memory; ``Trainer.predict`` moves what steps return."""
        return self


@dataclass
class Batch:
    """Samples padded to common lengths, features as stored (float16).

    Attributes:
        records: The B annotation records.
        video: (B, K, T, Dv) clip features per level, zero where padded; (1, K, T, Dv) if all samples share the
            same clips of one video.
        video_mask: (B, T) true for valid clips.
        text: (B, K, L, Dt) token features per level, zero where padded.
        text_mask: (B, L) true for valid tokens.
        num_clips: (B,) float32 duration / clip length, the factor from normalised time to the clip axis.
        video_index: (B,) int64, equal for two samples exactly if they have the same video.
        moments: (B, G, 2) float32 true moments (centre, width) in [0, 1], zero where padded.
        moment_mask: (B, G) true for valid moments.
        saliency: (B, T) float32 target saliency in [0, 1], zero where padded or not relevant.
        positive_clip: (B,) int64, one clip with saliency > 0 drawn per sample; -1 if the sample has none.
        negative_clip: (B,) int64, one clip outside all moments drawn per sample; -1 if the sample has none.
    """

    records: list[Record]
    video: Tensor
    video_mask: Tensor
    text: Tensor
    text_mask: Tensor
    num_clips: Tensor
    video_index: Tensor
    moments: Tensor
    moment_mask: Tensor
    saliency: Tensor
    positive_clip: Tensor
    negative_clip: Tensor

    def __len__(self) -> int:
        return len(self.records)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of every model's ``forward``: video, video_mask, text, text_mask, num_clips."""
        return self.video, self.video_mask, self.text, self.text_mask, self.num_clips

    def to(self, device: torch.device | str) -> Batch:
        """Return this batch with its tensors on ``device``; copies from pinned memory to a GPU do not block."""
        non_blocking = str(device).startswith("cuda")
        tensors = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if f.name != "records"
        }
        return Batch(self.records, **tensors)

    def pin_memory(self) -> Batch:
        """Return this batch in page-locked memory; the DataLoader calls this if it pins memory."""
        tensors = {f.name: getattr(self, f.name).pin_memory() for f in fields(self) if f.name != "records"}
        return Batch(self.records, **tensors)


@dataclass
class Anchors:
    """The points of all levels of a temporal pyramid, from which anchor-based models predict moments.

    Attributes:
        position: (A,) float32 position of a point, in clips from the start of the video.
        stride: (A,) float32 distance to the next point of the same level, in clips.
        reach: (A, 2) float32 smallest and largest distance, in clips, from the point to the farther boundary of a
            moment that it may be assigned.
        mask: (B, A) true where the video has such a point.
    """

    position: Tensor
    stride: Tensor
    reach: Tensor
    mask: Tensor


@dataclass
class Output:
    """A model's output for a batch; moments are (centre, width) in (0, 1).

    Anchor-based models predict moments at one level, with M = A, and these may lie outside the video.

    Attributes:
        class_logits: (B, K, M) logit of "this query is a moment", per level.
        references: (B, K, M, 2) the refined references R^1..R^K.
        saliency: (B, T) score of each clip in [-1, 1], the cosine with the pooled query or a multiple of it;
            meaningless where padded.
        dense: (B, T, d) the last dense embedding D^K.
        query: (B, d) the pooled query that ``dense`` is compared with.
        video: (B, K, T, d) the aligned clip embeddings of eq. 2.
        text: (B, K, d) the pooled aligned query of each level.
        actionness: (B, M) predicted best IoU of the last level's moments, in (0, 1); None without an actionness head.
        initial_references: (B, M, 2) R^0; None if the model refines no references.
        offsets: (B, K, M, H) sum over points of attention times offset (Fig. 4), in units of half a width:
            -1 and +1 are the moment's boundaries. None unless requested, and always None with standard attention.
        proposal_logits: (B, M) logit of "this initial reference is a moment" if the initial references are proposals
            (``pure_init``, ``mixed_init``), else None.
        denoised_logits: (B, K, N) class logits of noised true moments, N = groups × (positive, negative) × G; None
            without denoising.
        denoised_references: (B, K, N, 2) the refined references of these.
        anchors: The points that an anchor-based model predicts moments from; None for other models.
        second_logits: (B, A) class logits of a second head that predicts a moment from each of A points; None without
            such a head, like the next three. ``decode.nms: fusion`` joins its moments with the last level's.
        second_references: (B, A, 2) these moments; they may lie outside the video.
        second_centre_logits: (B, A) logit of how close a point is to the middle of its moment.
        second_mask: (B, A) true where the video has such a point.
    """

    class_logits: Tensor
    references: Tensor
    saliency: Tensor
    dense: Tensor
    query: Tensor
    video: Tensor
    text: Tensor
    actionness: Tensor | None = None
    initial_references: Tensor | None = None
    offsets: Tensor | None = None
    proposal_logits: Tensor | None = None
    denoised_logits: Tensor | None = None
    denoised_references: Tensor | None = None
    anchors: Anchors | None = None
    second_logits: Tensor | None = None
    second_references: Tensor | None = None
    second_centre_logits: Tensor | None = None
    second_mask: Tensor | None = None
