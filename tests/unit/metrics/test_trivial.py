"""The two trivial baselines."""

import numpy as np
import pytest

from sdst.metrics.evaluation import evaluate
from sdst.metrics.trivial import mean_moment, whole_video
from sdst.types import Record

RECORDS = [
    Record(1, "a", "x", 20.0, np.array([[0.0, 10.0]]), np.ones((10, 3), dtype=int)),
    Record(2, "b", "y", 40.0, np.array([[10.0, 20.0], [30.0, 40.0]]), np.ones((20, 3), dtype=int)),
]


def test_whole_video_spans_each_video_with_equal_saliency() -> None:
    first, second = whole_video(RECORDS)
    assert (first.windows[0, :2].tolist(), second.windows[0, :2].tolist()) == ([0, 20], [0, 40])
    assert (len(first.saliency), len(set(first.saliency))) == (10, 1)
    assert evaluate([first, second], RECORDS)["brief"]["MR-full-R1@0.5"] == 50  # IoU 0.5 and 0.25


def test_mean_moment_is_the_mean_of_all_training_moments_relative_to_their_videos() -> None:
    # starts 0, 1/4, 3/4; ends 1/2, 1/2, 1
    target = Record(3, "c", "z", 12.0)
    (prediction,) = mean_moment([target], RECORDS)
    assert prediction.windows[0, :2] == pytest.approx([12 / 3, 12 * 2 / 3])
    assert prediction.saliency is None
    assert (prediction.qid, prediction.vid, prediction.query) == (3, "c", "z")


def test_unlabelled_training_records_do_not_count_in_the_mean() -> None:
    with_unlabelled = [*RECORDS, Record(9, "d", "w", 5.0)]
    for ours, theirs in zip(
        mean_moment(RECORDS, with_unlabelled), mean_moment(RECORDS, RECORDS), strict=True
    ):
        np.testing.assert_array_equal(ours.windows, theirs.windows)
