"""Two predictors that look at neither video nor query, every clip equally salient: the floor to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdst.types import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.types import Record


def whole_video(records: Sequence[Record]) -> list[Prediction]:
    """Every query's moment is the whole video."""
    return _same_moment(records, 0.0, 1.0)


def mean_moment(records: Sequence[Record], train: Sequence[Record]) -> list[Prediction]:
    """Every query's moment starts and ends where the mean moment of the training records does."""
    windows = [record.windows / record.duration for record in train if record.windows is not None]
    start, end = np.concatenate(windows).mean(axis=0)
    return _same_moment(records, float(start), float(end))


def _same_moment(records: Sequence[Record], start: float, end: float) -> list[Prediction]:
    return [
        Prediction(
            record.qid,
            record.vid,
            record.query,
            windows=np.array([[start * record.duration, end * record.duration, 1.0]]),
            saliency=None if record.clip_scores is None else np.ones(len(record.clip_scores)),
        )
        for record in records
    ]
