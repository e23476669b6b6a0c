from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdst.inference.sliding import average_parts, part_starts

lengths = st.integers(1, 400)


@given(lengths, lengths)
def test_parts_cover_the_video_and_stay_inside(num_clips, length):
    starts = part_starts(num_clips, length)
    covered = [clip for start in starts for clip in range(start, min(start + length, num_clips))]
    assert set(covered) == set(range(num_clips))
    assert starts == sorted(set(starts))
    if num_clips <= length:
        assert starts == [0]
    else:
        assert starts[-1] + length == num_clips


@given(lengths, lengths)
def test_neighbouring_parts_overlap_by_at_least_half(num_clips, length):
    starts = part_starts(num_clips, length)
    assert all(later - earlier <= max(1, length / 2) for earlier, later in pairwise(starts))


@pytest.mark.parametrize(
    ("num_clips", "length", "starts"),
    [(75, 75, [0]), (76, 75, [0, 1]), (10, 4, [0, 2, 4, 6]), (9, 4, [0, 2, 4, 5]), (3, 1, [0, 1, 2])],
)
def test_starts_for_known_lengths(num_clips, length, starts):
    assert part_starts(num_clips, length) == starts


@given(lengths, lengths)
def test_averaged_parts_of_a_curve_restore_it(num_clips, length):
    curve = np.sin(np.arange(num_clips))
    starts = part_starts(num_clips, length)
    np.testing.assert_allclose(
        average_parts([curve[s : s + length] for s in starts], starts), curve, atol=1e-12
    )


def test_values_are_averaged_where_parts_overlap():
    parts = [np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0])]
    np.testing.assert_array_equal(average_parts(parts, [0, 2]), [1, 2, 4, 6, 7])
