"""Oracle ceilings: what a predictor that knows the annotations scores, as it is and with its hands tied.

The metrics themselves keep it from 100: only ten windows of a query count, a window that is right for another length
counts as wrong, and annotators disagree about highlights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdst.analysis.groups import measure
from sdst.metrics.evaluation import restrict, true_moments
from sdst.metrics.highlight import highlight_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sdst.analysis.groups import Bins, GroupScores
    from sdst.types import Record

ROUNDINGS = (0.5, 1.0, 2.0, 4.0)
"""Seconds to whose multiples an oracle's windows are rounded."""
ANSWERS = (1, 2, 5)
"""To how many moments of a query an oracle is limited: as with few moment queries, with a small ``max_moments``, or
with annotations of which only so many moments per query are learned."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """An oracle's scores.

    Attributes:
        oracle: What it may say.
        scores: Over all queries.
        mean_ap: mAP in percent by length group; None where a group has no queries.
    """

    oracle: str
    scores: GroupScores
    mean_ap: Mapping[str, float | None]


def moment_ceilings(records: Sequence[Record], lengths: Bins) -> list[Ceiling]:
    """The perfect predictor, and the same with rounded windows or with few of them, all with score 1.

    Windows are in the order of time, so those that are not said are the later ones.

    Raises:
        UserError: A record has no labels.
    """
    moments = true_moments(records)
    answers = {"the true moments": moments}
    for unit in ROUNDINGS:
        answers[f"rounded to {unit:g} s"] = [
            round_moments(spans, record.duration, unit)
            for spans, record in zip(moments, records, strict=True)
        ]
    for count in ANSWERS:
        answers[f"at most {count} per query"] = [spans[:count] for spans in moments]
    return [_measure(oracle, windows, moments, lengths) for oracle, windows in answers.items()]


def highlight_ceilings(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Highlight metrics in percent if the saliency of a clip is the mean of its annotators' scores.

    Empty where the records have no saliency labels.
    """
    scores = [record.clip_scores for record in records if record.clip_scores is not None]
    if not scores:
        return {}
    ratings = highlight_metrics([clips.mean(axis=1) for clips in scores], scores)
    return {
        rating: {name: round(value, 2) for name, value in metrics.items()}
        for rating, metrics in ratings.items()
    }


def round_moments(moments: NDArray[np.float64], duration: float, unit: float) -> NDArray[np.float64]:
    """(G, 2) starts and ends at the nearest multiples of ``unit`` seconds, none beyond the video, none empty.

    NumPy's twin of :func:`sdst.models.decoding.round_windows`, for the evaluation needs no torch.
    """
    per_second = 1 / unit
    rounded = np.minimum(np.round(moments * per_second) / per_second, duration)
    end = np.minimum(np.floor(moments.mean(axis=1) * per_second) / per_second + unit, duration)
    cells = np.stack([np.maximum(end - unit, 0), end], axis=1)
    is_empty = rounded[:, 1:] <= rounded[:, :1]
    windows: NDArray[np.float64] = np.where(is_empty, cells, rounded)
    return windows


def _measure(
    oracle: str, answers: Sequence[NDArray[np.float64]], moments: Sequence[NDArray[np.float64]], lengths: Bins
) -> Ceiling:
    windows = [np.insert(spans, 2, 1.0, axis=1) for spans in answers]
    scores = measure(windows, moments)
    assert scores is not None  # an annotation file has rows
    mean_ap = {}
    starts, ends = np.concatenate(moments).T
    for group, (low, high) in lengths.items():
        member = (ends - starts > low) & (ends - starts <= high)
        found = measure(*restrict(windows, moments, member))
        mean_ap[group] = None if found is None else found.mean_ap
    return Ceiling(oracle, scores, mean_ap)
