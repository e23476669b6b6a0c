"""Temporal spans: the two formats, their conversion, IoU, and the clip grid, for NumPy arrays and torch tensors.

``se`` is (start, end), ``cw`` is (centre, width); the last axis holds the pair. All conversions between them are
in this module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = TypeVar("Array", NDArray[np.float64], Tensor)


def cw_to_se(cw: Array) -> Array:
    """Convert (..., 2) centre and width to start and end."""
    centre, half = cw[..., :1], cw[..., 1:] / 2
    return _pair(centre - half, centre + half)


def se_to_cw(se: Array) -> Array:
    """Convert (..., 2) start and end to centre and width."""
    start, end = se[..., :1], se[..., 1:]
    return _pair((start + end) / 2, end - start)


def pairwise_iou(a: Array, b: Array) -> Array:
    """Temporal IoU of every span of ``a`` (..., N, 2) with every span of ``b`` (..., G, 2), both (start, end).

    Returns (..., N, G) in [0, 1]. Where the union is empty (two zero-length spans) the IoU is 0, not NaN.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    return aligned_iou(a, b)


def aligned_iou(a: Array, b: Array) -> Array:
    """Temporal IoU of the spans of ``a`` with those of ``b`` at the same index; (start, end), broadcast."""
    start, end = a[..., 0], a[..., 1]
    other_start, other_end = b[..., 0], b[..., 1]
    if isinstance(start, np.ndarray):
        inter = np.clip(np.minimum(end, other_end) - np.maximum(start, other_start), 0, None)
        union = (end - start) + (other_end - other_start) - inter
        iou: NDArray[np.float64] = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
        return iou
    inter = (end.minimum(other_end) - start.maximum(other_start)).clamp(min=0)
    union = (end - start) + (other_end - other_start) - inter
    empty = union <= 0
    return (inter / union.masked_fill(empty, 1)).masked_fill(empty, 0)


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of every span of ``a`` (..., N, 2) with every span of ``b`` (..., G, 2): (..., N, G) in [-1, 1].

    It is the IoU minus the share of the smallest span around both that neither covers; -1 where that span is empty.
    """
    return aligned_giou(a[..., :, None, :], b[..., None, :, :])


def aligned_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of the spans of ``a`` with those of ``b`` at the same index; (start, end), broadcast."""
    start, end = a[..., 0].minimum(b[..., 0]), a[..., 1].maximum(b[..., 1])
    hull = end - start
    inter = (a[..., 1].minimum(b[..., 1]) - a[..., 0].maximum(b[..., 0])).clamp(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter
    empty = hull <= 0
    return aligned_iou(a, b) - ((hull - union) / hull.masked_fill(empty, 1)).masked_fill(empty, 1)


def count_clips(duration: float, clip_seconds: float) -> int:
    """Number of clips of a video: duration / clip length, rounded to the nearest whole number, at least 1.

    Real files differ from their nominal length by a few hundredths of a second. Rounding down would lose a whole
    clip of a 149.98 s video, and rounding up would add an empty one to a 150.02 s video.
    """
    return max(1, math.floor(duration / clip_seconds + 0.5))


def regrid(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Values of ``count`` clips, from those of another number of clips over the same video; the first axis is time.

    One clip more or less is a matter of rounding: the extra one is cut off, or the last value is repeated. Otherwise
    each clip takes the value at its middle.
    """
    if abs(count - len(values)) <= 1:
        taken = np.arange(count).clip(max=len(values) - 1)
    else:
        taken = ((np.arange(count) + 0.5) * len(values) / count).astype(np.int64)
    regridded: NDArray[Any] = values[taken]
    return regridded


def _pair(first: Array, second: Array) -> Array:
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second], axis=-1)
    import torch

    return torch.cat([first, second], dim=-1)
