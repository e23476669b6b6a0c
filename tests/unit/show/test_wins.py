"""Wins and losses by query against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdst.metrics.error_kinds import RIGHT_IOU
from sdst.show.wins import compare
from sdst.types import Prediction, Record


def iou(window: tuple[float, float], moments: list[tuple[float, float]]) -> float:
    best = 0.0
    for start, end in moments:
        inter = min(end, window[1]) - max(start, window[0])
        if inter > 0:
            best = max(best, inter / (max(end, window[1]) - min(start, window[0])))
    return best


WINDOW = st.tuples(st.integers(0, 8), st.integers(1, 6)).map(lambda pair: (float(pair[0]), float(sum(pair))))
QUERY = st.tuples(WINDOW, WINDOW, st.lists(WINDOW, max_size=2), st.booleans())


@given(st.lists(QUERY, max_size=12))
def test_wins_equal_a_loop(
    queries: list[tuple[tuple[float, float], tuple[float, float], list[tuple[float, float]], bool]],
) -> None:
    records, first, other = [], {}, {}
    pairs = []
    for qid, (before, after, moments, is_shared) in enumerate(queries):
        records.append(Record(qid, "v", "q", 20, np.array(moments, float).reshape(-1, 2)))
        first[qid] = prediction(qid, before)
        other[qid] = prediction(qid, after, query="q" if is_shared else "another")
        if is_shared and moments:
            pairs.append((iou(before, moments), iou(after, moments)))
    wins = compare(records, {"first": first, "other": other})
    if not pairs:
        assert wins == []
        return
    (found,) = wins
    assert (found.name, found.queries) == ("other", len(pairs))
    assert found.better == sum(b > a for a, b in pairs)
    assert found.worse == sum(b < a for a, b in pairs)
    assert found.equal == sum(b == a for a, b in pairs)
    assert found.gained == sum(b >= RIGHT_IOU > a for a, b in pairs)
    assert found.lost == sum(a >= RIGHT_IOU > b for a, b in pairs)
    assert found.difference == pytest.approx(100 * (sum(b - a for a, b in pairs) / len(pairs)))


@given(st.lists(st.tuples(WINDOW, WINDOW, WINDOW), min_size=1, max_size=8))
def test_swapping_two_runs_swaps_wins_and_losses(queries: list[tuple[tuple[float, float], ...]]) -> None:
    records = [Record(qid, "v", "q", 20, np.array([moment])) for qid, (_, _, moment) in enumerate(queries)]
    one = {qid: prediction(qid, window) for qid, (window, _, _) in enumerate(queries)}
    two = {qid: prediction(qid, window) for qid, (_, window, _) in enumerate(queries)}
    (there,) = compare(records, {"one": one, "two": two})
    (back,) = compare(records, {"two": two, "one": one})
    assert (there.better, there.worse, there.gained, there.lost) == (
        back.worse,
        back.better,
        back.lost,
        back.gained,
    )
    assert there.difference == pytest.approx(-back.difference)


def test_one_run_is_compared_with_none() -> None:
    assert compare([], {}) == compare([], {"one": {}}) == []


def prediction(qid: int, window: tuple[float, float], query: str = "q") -> Prediction:
    return Prediction(qid, "v", query, np.array([[*window, 1.0]]), None)
