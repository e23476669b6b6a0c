"""Overlapping parts of a video longer than the training videos: where they start, and how they are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def part_starts(num_clips: int, length: int) -> list[int]:
    """First clips of parts of ``length`` clips that cover a video; parts start half a length apart.

    The last part ends with the video, so it may overlap the part before it by more than half. A video of at most
    ``length`` clips is one part.
    """
    if num_clips <= length:
        return [0]
    last = num_clips - length
    return [*range(0, last, max(1, length // 2)), last]


def average_parts(parts: Sequence[NDArray[np.float64]], starts: Sequence[int]) -> NDArray[np.float64]:
    """One value per clip of the video: the mean over the parts that contain the clip.

    Args:
        parts: One array per part, with a value per clip.
        starts: First clip of each part. The parts must cover the video without gaps.
    """
    num_clips = max(start + len(part) for start, part in zip(starts, parts, strict=True))
    total, count = np.zeros(num_clips), np.zeros(num_clips)
    for start, part in zip(starts, parts, strict=True):
        total[start : start + len(part)] += part
        count[start : start + len(part)] += 1
    return total / count
