"""Two baselines that use neither video nor query; all clips are equally salient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdst.types import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sdst.types import Record


def whole_video(records: Sequence[Record]) -> list[Prediction]:
    """Predict the whole video for every query."""
    return _same_moment(records, 0.0, 1.0)


def mean_moment(records: Sequence[Record], train: Sequence[Record]) -> list[Prediction]:
    """Predict for every query the mean start and end of the training moments, as shares of the duration."""
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
            saliency=_same_saliency(record),
        )
        for record in records
    ]


def _same_saliency(record: Record) -> NDArray[np.float64] | None:
    labels = record.clip_scores if record.clip_labels is None else record.clip_labels
    return None if labels is None else np.ones(len(labels))
