"""Kinds of errors in a query's predicted moments, with names to filter and search by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdst.spans import pairwise_iou

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIGHT_IOU = 0.5
"""IoU from which a predicted moment is right, as for R1@0.5."""
CONSIDERED = 5
"""Number of predictions of a query that are considered, the best ones."""

FIRST_KINDS = {
    "right": f"the first prediction has IoU ≥ {RIGHT_IOU:g} with a true moment",
    "too short": f"the first prediction overlaps a true moment, but is less than {RIGHT_IOU:g} times as long",
    "too long": f"the first prediction overlaps a true moment, but is more than {1 / RIGHT_IOU:g} times as long",
    "wrong place": "the first prediction overlaps no true moment, or has a suitable length but the wrong position",
}
"""Kinds of first predictions and their meanings; every query with a prediction has exactly one of them.

*Too short* and *too long* mean that the length alone rules out the IoU of a right prediction. *Wrong place* means that
moving the prediction could make it right, or that it overlaps no true moment at all. The prediction is compared with
the true moment of the highest IoU.
"""
OTHER_KINDS = {
    "missed": f"none of the first {CONSIDERED} predictions overlaps one of the true moments",
    "duplicate": f"two of the first {CONSIDERED} predictions have IoU ≥ {RIGHT_IOU:g} with the same true moment",
}
"""Further kinds that a query may have, and their meanings."""
KINDS = FIRST_KINDS | OTHER_KINDS


def error_kinds(windows: NDArray[np.float64], moments: NDArray[np.float64]) -> tuple[str, ...]:
    """Return the kinds of a query, in the order of :data:`KINDS`.

    Args:
        windows: (N, 2) predicted (start, end), best first; N may be 0. Further columns are ignored.
        moments: (G, 2) true (start, end), G > 0.
    """
    iou = pairwise_iou(windows[:CONSIDERED, :2], moments)  # (N, G)
    is_right = iou >= RIGHT_IOU
    kinds = [] if len(windows) == 0 else [_first_kind(windows[0], moments, iou[0])]
    if (iou == 0).all(axis=0).any():
        kinds.append("missed")
    if (is_right.sum(axis=0) > 1).any():
        kinds.append("duplicate")
    return tuple(kinds)


def _first_kind(first: NDArray[np.float64], moments: NDArray[np.float64], iou: NDArray[np.float64]) -> str:
    """Return the kind of a first prediction from its (G,) IoU with the true moments."""
    nearest = int(iou.argmax())
    if iou[nearest] >= RIGHT_IOU:
        return "right"
    if iou[nearest] == 0:
        return "wrong place"
    length, true_length = first[1] - first[0], moments[nearest, 1] - moments[nearest, 0]
    if length < RIGHT_IOU * true_length:
        return "too short"
    return "too long" if length * RIGHT_IOU > true_length else "wrong place"
