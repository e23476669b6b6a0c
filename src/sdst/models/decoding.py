"""Decoding of the model's output into predictions: seconds, cut, clamp, round, soft-NMS, sort (eq. 23).

Validation, test and prediction all use this decoding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdst.models.fusion import DETECTIONS, DUPLICATE, WEIGHTS, fuse, without_low_scores
from sdst.spans import count_clips, cw_to_se, pairwise_iou, regrid
from sdst.types import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from sdst.config.schema import Decoding
    from sdst.types import Batch, Output, Record


def decode(output: Output, batch: Batch, decoding: Decoding) -> list[Prediction]:
    """Decode a batch: the last level's moments, and the saliency of every clip, or of every label per clip.

    ``Grounder.predict_encoded`` does the same for a video that is predicted in parts.
    """
    durations = torch.tensor([record.duration for record in batch.records], dtype=torch.float64)
    windows_se, scores = raw_moments(output, durations, decoding)
    moments = decode_moments(windows_se, scores, durations, decoding)
    return [
        Prediction(record.qid, record.vid, record.query, windows.numpy(), _per_label(saliency, record))
        for record, windows, saliency in zip(
            batch.records, moments, clip_saliency(output, batch), strict=True
        )
    ]


def _per_label(saliency: NDArray[np.float64], record: Record) -> NDArray[np.float64]:
    return saliency if record.clip_labels is None else regrid(saliency, len(record.clip_labels))


def raw_moments(output: Output, durations: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Return the last level's moments (B, M, 2), start and end in seconds, and their scores (B, M), both float64.

    The score is sqrt(class probability × actionness), eq. 23, or the one of the two that ``decoding.score`` names;
    -inf for moments of padded points. For ``fusion``, low scores are -inf too, and the best moments of a second head
    follow, if there is one.
    """
    windows_se = cw_to_se(_cpu(output.references[:, -1])) * durations[:, None, None]
    actionness = None if output.actionness is None else _cpu(output.actionness)
    scores = _scores(_cpu(output.class_logits[:, -1]), actionness, decoding)
    if output.anchors is not None:
        scores = scores.masked_fill(~output.anchors.mask.cpu(), -torch.inf)
    if decoding.nms != "fusion":
        return windows_se, scores
    scores = without_low_scores(scores)
    if output.second_logits is None:
        return windows_se, scores
    second_se, second = second_moments(output, durations, decoding)
    scores = torch.cat([WEIGHTS[0] * scores, WEIGHTS[1] * second], dim=1)
    return torch.cat([windows_se, second_se], dim=1), scores


def second_moments(output: Output, durations: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """The best moments of the second head (B, N, 2) without duplicates, in seconds, and their scores (B, N)."""
    assert output.second_logits is not None
    assert output.second_references is not None
    assert output.second_centre_logits is not None
    assert output.second_mask is not None
    limits = durations[:, None, None]
    windows_se = (cw_to_se(_cpu(output.second_references)) * limits).clamp(min=0).minimum(limits)
    scores = _scores(_cpu(output.second_logits), _cpu(output.second_centre_logits).sigmoid(), decoding)
    scores = without_low_scores(scores.masked_fill(~output.second_mask.cpu(), -torch.inf))
    scores = suppress(windows_se, scores, replace(decoding, nms="drop", iou_threshold=DUPLICATE))
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :DETECTIONS]
    return windows_se.take_along_dim(best.unsqueeze(-1), dim=1), scores.gather(1, best)


def _scores(class_logits: Tensor, actionness: Tensor | None, decoding: Decoding) -> Tensor:
    probability = class_logits.sigmoid()
    if decoding.score == "class":
        return probability
    assert actionness is not None
    return actionness if decoding.score == "actionness" else (probability * actionness).sqrt()


def clip_saliency(output: Output, batch: Batch) -> list[NDArray[np.float64]]:
    """Return the saliency of every clip of each sample, for the whole duration.

    If the features are a clip short, the last score is repeated, because the official evaluation would fill in 0,
    which is higher than any negative score.
    """
    saliency = _cpu(output.saliency).numpy()
    stored = batch.video_mask.sum(dim=1).tolist()
    wanted = [count_clips(clips, clip_seconds=1.0) for clips in batch.num_clips.tolist()]
    return [
        np.pad(saliency[i, : stored[i]], (0, max(0, wanted[i] - stored[i])), mode="edge")
        for i in range(len(batch))
    ]


def decode_moments(windows_se: Tensor, scores: Tensor, durations: Tensor, decoding: Decoding) -> list[Tensor]:
    """Cut, clamp, round, soft-NMS and sort the moments of a batch, in float64.

    Rounding precedes NMS, as usual in the field, so that windows that rounding made equal suppress each other. It
    follows ``fusion``, whose windows are means.

    Args:
        windows_se: (B, M, 2) start and end in seconds.
        scores: (B, M), at least 0, or -inf for rows that are not moments.
        durations: (B,) seconds.
        decoding: Options of decoding.

    Returns:
        For each sample (N, 3) float64 (start, end, score), best score first, equal scores in the order of the queries;
        N is its number of moments, at most ``max_moments``. A window that NMS suppressed stays, with its lower score,
        unless ``decoding.nms`` is ``drop`` or ``fusion``.
    """
    scores = scores.double()
    is_after = decoding.nms in ("drop", "fusion") and decoding.max_moments
    before = None if is_after else decoding.max_moments
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :before]
    kept = best.sort(dim=1).values
    scores = scores.gather(1, kept)
    windows_se = windows_se.take_along_dim(kept[..., None], dim=1)
    if decoding.nms == "fusion":
        windows_se = fit_windows(windows_se, durations, replace(decoding, round_to=None))
        windows_se, scores = fuse(windows_se, scores, decoding.iou_threshold)
    windows_se = fit_windows(windows_se, durations, decoding)
    scores = suppress(windows_se, scores, decoding)
    order = scores.argsort(dim=1, descending=True, stable=True)[..., None]
    moments = torch.cat([windows_se, scores[..., None]], dim=-1).take_along_dim(order, dim=1)
    # NaN scores stay, because the code that writes predictions refuses them.
    return [sample[sample[:, 2] != -torch.inf][: decoding.max_moments] for sample in moments]


def fit_windows(windows_se: Tensor, durations: Tensor, decoding: Decoding) -> Tensor:
    """Clamp windows (B, M, 2) to the durations (B,) of their videos and round them; float64."""
    durations = durations.double()[:, None, None]
    windows_se = windows_se.double().clamp(min=0).minimum(durations)
    if decoding.round_to is None:
        return windows_se
    return round_windows(windows_se, durations, decoding.round_to)


def round_windows(windows_se: Tensor, durations: Tensor, unit: float) -> Tensor:
    """Round starts and ends to multiples of ``unit`` without leaving the video or emptying a window.

    A bound that would round past the video's end becomes that end. A window that rounding would empty becomes
    the unit-long cell around its centre, moved back if it would pass the video's end; in a video shorter
    than one unit it becomes the whole video.

    Args:
        windows_se: (B, M, 2) in seconds, inside the video.
        durations: (B, 1, 1) in seconds.
        unit: Unit in seconds.
    """
    # For unit 0.1, dividing by the reciprocal gives exactly 24.3; multiplying by the unit adds a rounding error.
    per_second = 1 / unit
    rounded = ((windows_se * per_second).round() / per_second).minimum(durations)
    centre = windows_se.mean(dim=-1, keepdim=True)
    end = ((centre * per_second).floor() / per_second + unit).minimum(durations)
    cell = torch.cat([(end - unit).clamp(min=0), end], dim=-1)
    empty = rounded[..., 1:] <= rounded[..., :1]
    return torch.where(empty, cell, rounded)


def suppress(windows_se: Tensor, scores: Tensor, decoding: Decoding) -> Tensor:
    """Soft-NMS: repeatedly take the best remaining window and lower the scores of remaining windows that overlap it.

    Args:
        windows_se: (B, M, 2) start and end in seconds.
        scores: (B, M), at least 0, or -inf for rows that are not moments: they suppress nothing and stay -inf.
        decoding: Options of decoding; ``nms``, ``sigma`` and ``iou_threshold`` are used.

    Returns:
        (B, M) new scores, in the order of the input; -inf for windows that ``drop`` removes. Two empty windows do not
        overlap.
    """
    if decoding.nms in ("fusion", "none"):
        return scores
    iou = pairwise_iou(windows_se, windows_se)
    if decoding.nms == "linear":
        factors = 1 - iou
    elif decoding.nms == "gaussian":
        factors = (-(iou**2) / decoding.sigma).exp()
    else:
        factors = torch.zeros_like(iou)
    factors = factors.where(iou > decoding.iou_threshold, 1)  # (B, M, M)

    given, samples = scores, torch.arange(len(scores), device=scores.device)
    left = scores > -torch.inf
    for _ in range(max(left.sum(dim=1).tolist(), default=0)):
        best = scores.masked_fill(~left, -torch.inf).argmax(dim=1)
        left[samples, best] = False
        scores = torch.where(left, scores * factors[samples, best], scores)
    return scores.masked_fill((scores == 0) & (given > 0), -torch.inf) if decoding.nms == "drop" else scores


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()
