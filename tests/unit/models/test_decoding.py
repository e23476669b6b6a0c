"""Decoding equals a sequential soft-NMS, and clamping, rounding and sorting do what they document."""

from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdst.config.schema import Decoding
from sdst.errors import UserError
from sdst.models.decoding import decode, decode_moments
from sdst.types import Batch, Output, Record

PLAIN = Decoding(nms="none", sigma=0.5, iou_threshold=0.0, round_to=None, max_moments=None)


def naive_nms(windows: list[list[float]], scores: list[float], decoding: Decoding) -> list[tuple[int, float]]:
    """Return (index, new score) in the order taken, from the textbook loop over the remaining windows."""
    left = dict(enumerate(scores))
    taken = []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        taken.append((best, left.pop(best)))
        for i in left:
            (a, b), (c, d) = windows[best], windows[i]
            overlap = max(0.0, min(b, d) - max(a, c))
            union = (b - a) + (d - c) - overlap
            iou = overlap / union if union > 0 else 0.0
            if iou > decoding.iou_threshold:
                left[i] *= {"linear": 1 - iou, "gaussian": exp(-(iou**2) / decoding.sigma), "hard": 0.0}[
                    decoding.nms
                ]
    return taken


def one(
    windows: list[list[float]], scores: list[float], duration: float, decoding: Decoding
) -> list[list[float]]:
    result = decode_moments(
        torch.tensor([windows]), torch.tensor([scores]), torch.tensor([duration]), decoding
    )
    return result[0].tolist()


@settings(max_examples=60, deadline=None)
@given(
    # A coarse grid makes equal windows, empty windows and equal scores frequent.
    samples=st.integers(1, 6).flatmap(
        lambda m: st.lists(
            st.lists(
                st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 4)), min_size=m, max_size=m
            ),
            min_size=1,
            max_size=3,
        )
    ),
    nms=st.sampled_from(["linear", "gaussian", "hard"]),
    sigma=st.sampled_from([0.1, 0.5]),
    threshold=st.sampled_from([0.0, 0.3, 0.71]),
)
def test_batched_nms_equals_the_sequential_one(samples, nms, sigma, threshold):
    decoding = replace(PLAIN, nms=nms, sigma=sigma, iou_threshold=threshold)
    windows = [[[float(min(a, b)), float(max(a, b))] for a, b, _ in sample] for sample in samples]
    scores = [[s / 4 for _, _, s in sample] for sample in samples]
    durations = torch.full((len(samples),), 8.0)
    result = decode_moments(torch.tensor(windows), torch.tensor(scores), durations, decoding)
    for i, taken in enumerate(naive_nms(w, s, decoding) for w, s in zip(windows, scores, strict=True)):
        expected = [[*windows[i][index], score] for index, score in taken]
        np.testing.assert_allclose(result[i].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_nms_equals_values_computed_by_hand():
    windows, scores = [[0.0, 4.0], [2.0, 4.0], [6.0, 8.0]], [0.8, 0.6, 0.5]
    assert one(windows, scores, 8.0, replace(PLAIN, nms="linear")) == [
        pytest.approx(row) for row in ([0, 4, 0.8], [6, 8, 0.5], [2, 4, 0.3])
    ]
    assert one(windows, scores, 8.0, replace(PLAIN, nms="hard"))[-1] == pytest.approx([2, 4, 0])
    assert one(windows, scores, 8.0, replace(PLAIN, nms="hard", iou_threshold=0.5))[1][2] == pytest.approx(
        0.6
    )


def test_rounding_precedes_nms():
    """Two windows that become equal by rounding suppress each other completely."""
    decoding = replace(PLAIN, nms="linear", round_to=2.0)
    moments = one([[0.2, 3.8], [0.4, 4.1]], [0.9, 0.8], 10.0, decoding)
    assert moments == [pytest.approx([0, 4, 0.9]), pytest.approx([0, 4, 0])]


@settings(max_examples=100, deadline=None)
@given(
    bounds=st.lists(st.tuples(st.floats(-50, 250), st.floats(-50, 250)), min_size=1, max_size=5),
    duration=st.floats(0.5, 200),
    unit=st.sampled_from([0.1, 1.0, 2.0]),
)
def test_rounded_windows_stay_inside_and_are_never_empty(bounds, duration, unit):
    windows = torch.tensor([[sorted(pair) for pair in bounds]], dtype=torch.float64)
    scores = torch.arange(len(bounds), 0, -1)[None] / 10
    durations = torch.tensor([duration], dtype=torch.float64)
    result = decode_moments(windows, scores, durations, replace(PLAIN, round_to=unit))[0][:, :2]
    length = result[:, 1] - result[:, 0]
    assert (result >= 0).all()
    assert (result <= duration).all()
    assert (length > 0).all()
    clamped = windows[0].clamp(0, duration)
    was_long = (clamped[:, 1] - clamped[:, 0]) > unit
    assert ((result - clamped).abs()[was_long] <= unit / 2 + 1e-9).all()
    on_grid = ((result / unit) - (result / unit).round()).abs() < 1e-6
    unit_long = ((length - min(unit, duration)).abs() < 1e-9)[:, None]
    assert (on_grid | (result == duration) | unit_long).all()


@pytest.mark.parametrize(
    ("window", "duration", "expected"),
    [
        ([3.1, 3.4], 10.0, [2, 4]),  # both bounds round to 4: the cell of the centre
        ([4.1, 4.4], 10.0, [4, 6]),
        ([9.8, 9.9], 10.0, [8, 10]),
        ([10.6, 10.8], 10.9, [8.9, 10.9]),  # a whole unit, moved back into the video
        ([0.3, 0.6], 1.5, [0, 1.5]),  # a video shorter than a unit
        ([-5.0, 20.0], 10.9, [0, 10]),
        ([-5.0, 20.0], 11.5, [0, 11.5]),  # 12 would be outside
        ([2.9, 7.1], 10.0, [2, 8]),
    ],
)
def test_windows_are_rounded_to_two_seconds(window, duration, expected):
    assert one([window], [0.5], duration, replace(PLAIN, round_to=2.0))[0][:2] == pytest.approx(expected)


def test_rounded_values_print_short():
    assert one([[0.31, 24.28]], [0.5], 30.0, replace(PLAIN, round_to=0.1))[0][:2] == [0.3, 24.3]


def test_equal_scores_keep_query_order():
    windows = [[float(i), i + 1.0] for i in range(40)]
    scores = [0.5] * 40
    scores[7] = 0.9
    moments = one(windows, scores, 40.0, replace(PLAIN, max_moments=5))
    assert [m[0] for m in moments] == [7, 0, 1, 2, 3]


def test_max_moments_is_applied_before_nms():
    """The third window is dropped although NMS leaves the second with a lower score."""
    windows, scores = [[6.0, 8.0], [0.0, 4.0], [0.0, 4.0]], [0.5, 0.8, 0.9]
    assert one(windows, scores, 8.0, replace(PLAIN, nms="hard", max_moments=2)) == [
        pytest.approx(row) for row in ([0, 4, 0.9], [0, 4, 0])
    ]


@pytest.mark.parametrize("nms", ["linear", "gaussian", "hard", "none"])
def test_rows_that_are_not_moments_are_dropped_and_suppress_nothing(nms):
    decoding = replace(PLAIN, nms=nms, round_to=1.0)
    windows, scores = [[0.0, 4.0], [1.0, 4.0], [3.0, 8.0], [-20.0, 50.0]], [0.2, 0.9, 0.7, 0.1]
    expected = one(windows, scores, 8.0, decoding)
    assert len(expected) == 4
    none = [[0.0, 4.0], [1.0, 4.0]]
    assert one([none[0], *windows, none[1]], [-np.inf, *scores, -np.inf], 8.0, decoding) == expected
    assert one(none, [-np.inf, -np.inf], 8.0, decoding) == []


@pytest.mark.parametrize("nms", ["linear", "none"])
def test_a_nan_score_is_kept(nms):
    found = one([[0.0, 4.0], [1.0, 5.0]], [np.nan, 0.5], 8.0, replace(PLAIN, nms=nms))
    assert len(found) == 2
    assert np.isnan([score for _, _, score in found]).any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nms", "soft"),
        ("sigma", 0.0),
        ("sigma", float("nan")),
        ("iou_threshold", -0.1),
        ("iou_threshold", 1.5),
        ("round_to", 0.0),
        ("max_moments", -1),
        ("score", "best"),
    ],
)
def test_invalid_options_are_user_errors(key, value):
    with pytest.raises(UserError, match=rf"decode\.{key} must "):
        replace(PLAIN, **{key: value})


def tiny() -> tuple[Output, Batch]:
    """Two videos of 5 and 3 clips; two levels, of which only the last may be decoded."""
    generator = torch.Generator().manual_seed(0)
    references = torch.rand(2, 2, 3, 2, generator=generator)
    output = Output(
        class_logits=torch.randn(2, 2, 3, generator=generator, requires_grad=True),
        references=references,
        actionness=torch.rand(2, 3, generator=generator),
        saliency=torch.rand(2, 5, generator=generator) * 2 - 1,
        dense=torch.zeros(2, 5, 4),
        query=torch.zeros(2, 4),
        video=torch.zeros(2, 2, 5, 4),
        text=torch.zeros(2, 2, 4),
        initial_references=references[:, 0],
    )
    batch = Batch(
        records=[Record(4, "a", "one", 10.0), Record("x_1", "b", "two", 5.5)],
        video=torch.zeros(2, 2, 5, 6),
        video_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool),
        text=torch.zeros(2, 2, 3, 6),
        text_mask=torch.ones(2, 3, dtype=torch.bool),
        num_clips=torch.tensor([5.0, 2.75]),
        video_index=torch.arange(2),
        moments=torch.zeros(2, 0, 2),
        moment_mask=torch.zeros(2, 0, dtype=torch.bool),
        saliency=torch.zeros(2, 5),
        positive_clip=torch.full((2,), -1),
        negative_clip=torch.full((2,), -1),
    )
    return output, batch


def test_decode_returns_the_last_level_in_seconds():
    output, batch = tiny()
    predictions = decode(output, batch, PLAIN)
    for i, prediction in enumerate(predictions):
        record = batch.records[i]
        assert (prediction.qid, prediction.vid, prediction.query) == (record.qid, record.vid, record.query)
        expected = []
        for m in range(3):
            centre, width = output.references[i, 1, m].tolist()
            probability = 1 / (1 + exp(-output.class_logits[i, 1, m].item()))
            bounds = [min(max(centre + side * width / 2, 0), 1) * record.duration for side in (-1, 1)]
            expected.append([*bounds, sqrt(probability * output.actionness[i, m].item())])
        expected.sort(key=lambda row: -row[2])
        assert prediction.windows.dtype == np.float64
        np.testing.assert_allclose(prediction.windows, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("score", ["class", "actionness"])
def test_a_score_of_one_factor_equals_it_and_ignores_the_other(score):
    output, batch = tiny()
    expected = output.class_logits[:, 1].sigmoid() if score == "class" else output.actionness
    decoding = replace(PLAIN, score=score)
    before = decode(output, batch, decoding)
    if score == "class":
        output.actionness = torch.rand(2, 3)
    else:
        output.class_logits = torch.randn(2, 2, 3)
    for got, prediction, values in zip(decode(output, batch, decoding), before, expected, strict=True):
        np.testing.assert_array_equal(got.windows, prediction.windows)
        assert got.windows[:, 2].tolist() == pytest.approx(sorted(values.tolist(), reverse=True))


def test_decode_returns_the_cosines_of_valid_clips():
    output, batch = tiny()
    first, second = decode(output, batch, PLAIN)
    assert first.saliency.tolist() == output.saliency[0].tolist()
    assert second.saliency.tolist() == output.saliency[1, :3].tolist()


def test_decode_is_the_same_in_a_batch_of_one():
    output, batch = tiny()
    decoding = replace(PLAIN, nms="linear", round_to=1.0)
    together = decode(output, batch, decoding)[1]
    for level_field in ("class_logits", "references", "actionness", "saliency"):
        setattr(output, level_field, getattr(output, level_field)[1:])
    batch.records, batch.video_mask = batch.records[1:], batch.video_mask[1:]
    alone = decode(output, batch, decoding)[0]
    np.testing.assert_array_equal(alone.windows, together.windows)
