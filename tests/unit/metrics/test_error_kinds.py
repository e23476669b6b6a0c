"""Kinds of errors follow their definitions, which are written out again here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdst.metrics.error_kinds import CONSIDERED, FIRST_KINDS, KINDS, error_kinds

spans = st.tuples(st.integers(0, 40), st.integers(1, 30)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def iou(a: tuple[int, int], b: tuple[int, int]) -> float:
    seconds_a, seconds_b = set(range(*a)), set(range(*b))
    return len(seconds_a & seconds_b) / len(seconds_a | seconds_b)


@pytest.mark.parametrize(
    ("windows", "kinds"),
    [
        ([(10, 20)], ("right",)),
        ([(10, 15)], ("right",)),
        ([(10, 14)], ("too short",)),
        ([(5, 26)], ("too long",)),
        ([(15, 25)], ("wrong place",)),
        ([(20, 30)], ("wrong place", "missed")),
        ([(30, 40), (19, 40)], ("wrong place",)),
        ([(10, 20), (11, 20)], ("right", "duplicate")),
        ([(30, 40), (10, 20), (10, 18)], ("wrong place", "duplicate")),
        ([(30, 40)] * CONSIDERED + [(10, 20)], ("wrong place", "missed")),
        ([], ("missed",)),
    ],
)
def test_kinds_of_predictions_for_one_moment_from_10_to_20(
    windows: list[tuple[int, int]], kinds: tuple[str, ...]
) -> None:
    assert error_kinds(np.array(windows, float).reshape(-1, 2), np.array([[10.0, 20.0]])) == kinds


def test_a_query_with_a_found_and_a_missed_moment_has_the_kind_missed() -> None:
    windows, moments = np.array([[0.0, 10.0, 0.9]]), np.array([[0.0, 10.0], [50.0, 60.0]])
    assert error_kinds(windows, moments) == ("right", "missed")


@given(st.lists(spans, max_size=8), st.lists(spans, min_size=1, max_size=4))
def test_kinds_follow_their_definitions(
    windows: list[tuple[int, int]], moments: list[tuple[int, int]]
) -> None:
    found = error_kinds(np.array(windows, float).reshape(-1, 2), np.array(moments, float))
    assert list(found) == [kind for kind in KINDS if kind in found]
    first = [kind for kind in found if kind in FIRST_KINDS]
    assert len(first) == bool(windows)
    shown = windows[:CONSIDERED]
    assert ("missed" in found) == any(all(iou(w, m) == 0 for w in shown) for m in moments)
    assert ("duplicate" in found) == any(sum(iou(w, m) >= 0.5 for w in shown) > 1 for m in moments)
    if windows:
        assert ("right" in found) == any(iou(windows[0], m) >= 0.5 for m in moments)
    if first == ["too short"] or first == ["too long"]:
        # No place would have made a window of this length right.
        length = windows[0][1] - windows[0][0]
        nearest = max(moments, key=lambda m: iou(windows[0], m))
        assert all(iou((start, start + length), nearest) < 0.5 for start in range(-60, 80))
