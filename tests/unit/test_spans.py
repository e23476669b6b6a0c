"""Spans: conversions, IoU and the clip grid, compared with plain Python and checked by their laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdst.spans import aligned_iou, count_clips, cw_to_se, pairwise_iou, regrid, se_to_cw

# Multiples of 1/64 are exact in floating point, so that laws hold exactly.
TICKS = st.integers(0, 64 * 40).map(lambda tick: tick / 64)
SPANS = st.tuples(TICKS, TICKS).map(sorted)
LISTS = st.lists(SPANS, min_size=1, max_size=5)
KINDS = pytest.mark.parametrize("kind", [np.array, lambda x: torch.tensor(x, dtype=torch.float64)])


def naive_iou(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / union if union > 0 else 0.0


@KINDS
@given(spans=LISTS)
def test_conversion_to_centre_and_width_and_back(kind, spans):
    se = kind(spans)
    cw = se_to_cw(se)
    assert cw.tolist() == [[(start + end) / 2, end - start] for start, end in spans]
    assert type(cw) is type(se)
    assert cw_to_se(cw).tolist() == spans


@KINDS
@given(a=LISTS, b=LISTS)
def test_pairwise_iou_equals_a_loop_lies_in_0_to_1_and_is_symmetric(kind, a, b):
    iou = pairwise_iou(kind(a), kind(b))
    assert iou.tolist() == [[pytest.approx(naive_iou(x, y)) for y in b] for x in a]
    assert ((iou >= 0) & (iou <= 1)).all()
    assert pairwise_iou(kind(b), kind(a)).T.tolist() == iou.tolist()


@KINDS
@given(spans=LISTS)
def test_a_span_overlaps_itself_fully_unless_it_is_empty(kind, spans):
    assert aligned_iou(kind(spans), kind(spans)).tolist() == [float(end > start) for start, end in spans]


def test_gradient_of_the_iou_is_finite_for_empty_and_for_disjoint_spans():
    a = torch.tensor([[1.0, 1.0], [0.0, 1.0]], requires_grad=True)
    aligned_iou(a, torch.tensor([[1.0, 1.0], [2.0, 3.0]])).sum().backward()
    assert a.grad.isfinite().all()


@KINDS
def test_spans_of_a_batch_are_compared_sample_by_sample(kind):
    a, b = kind([[[0.0, 2], [1, 3]], [[4, 8], [0, 1]]]), kind([[[0.0, 1]], [[6, 8]]])
    assert pairwise_iou(a, b).tolist() == [[[0.5], [0]], [[0.5], [0]]]


@given(duration=st.floats(0.01, 2000), clip_seconds=st.sampled_from([0.5, 1.0, 2.0]))
def test_clips_cover_the_duration_to_half_a_clip(duration, clip_seconds):
    count = count_clips(duration, clip_seconds)
    assert count == 1 or abs(count * clip_seconds - duration) <= clip_seconds / 2
    assert count >= 1
    assert isinstance(count, int)


@pytest.mark.parametrize(("duration", "expected"), [(149.98, 75), (150.02, 75), (151, 76), (150.99, 75)])
def test_a_nominal_duration_gives_its_nominal_number_of_clips(duration, expected):
    assert count_clips(duration, 2.0) == expected


@given(clips=st.integers(1, 5000), off=st.floats(-0.49, 0.49))
def test_jitter_of_the_duration_below_half_a_clip_changes_nothing(clips, off):
    assert count_clips((clips + off) * 2.0, 2.0) == clips


def test_regridding_keeps_a_grid_repeats_the_last_value_and_takes_the_middle_of_each_clip():
    values = np.array([[1], [2], [3], [4]])
    assert regrid(values, 4).tolist() == values.tolist()
    assert regrid(values, 3).ravel().tolist() == [1, 2, 3]
    assert regrid(values, 5).ravel().tolist() == [1, 2, 3, 4, 4]
    assert regrid(values, 8).ravel().tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert regrid(values, 2).ravel().tolist() == [2, 4]
