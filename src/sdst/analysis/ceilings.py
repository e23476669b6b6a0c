"""Oracle upper bounds: scores of a predictor that knows the annotations, without and with restrictions.

Even without restrictions it can stay below 100: only ten windows of a query count, a window that matches a moment of
another length counts as wrong, and annotators disagree about highlights.
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
"""Grids in seconds to which an oracle's windows are rounded."""
MAX_ANSWERS = (1, 2, 5)
"""Limits on an oracle's moments per query. A model has such a limit if it has few moment queries, a small
``max_moments``, or was trained on few moments per query."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """An oracle's scores.

    Attributes:
        oracle: Description of the restriction.
        scores: Scores over all queries.
        mean_ap: mAP in percent by length group; None where a group has no queries.
    """

    oracle: str
    scores: GroupScores
    mean_ap: Mapping[str, float | None]


def moment_ceilings(records: Sequence[Record], lengths: Bins) -> list[Ceiling]:
    """Upper bounds of the perfect predictor, of rounded windows, and of few windows per query, all with score 1.

    Windows are in temporal order, so a limit drops the latest ones.

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
    for count in MAX_ANSWERS:
        answers[f"at most {count} per query"] = [spans[:count] for spans in moments]
    return [_measure(oracle, windows, moments, lengths) for oracle, windows in answers.items()]


def highlight_ceilings(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Highlight metrics in percent, by rating, if the saliency of a clip is the mean of its annotators' scores.

    Empty if the records have no saliency labels.
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
    """(G, 2) starts and ends rounded to multiples of ``unit`` seconds, within the video and never empty.

    NumPy version of :func:`sdst.models.decoding.round_windows`, because the evaluation must not import torch.
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
    assert scores is not None  # an annotation file has at least one row
    mean_ap = {}
    starts, ends = np.concatenate(moments).T
    for group, (low, high) in lengths.items():
        member = (ends - starts > low) & (ends - starts <= high)
        found = measure(*restrict(windows, moments, member))
        mean_ap[group] = None if found is None else found.mean_ap
    return Ceiling(oracle, scores, mean_ap)
