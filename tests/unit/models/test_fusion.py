"""Fusion of moments equals a textbook loop, and decoding joins the moments of two heads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdst.config.schema import Decoding
from sdst.models.decoding import decode_moments, raw_moments
from sdst.models.fusion import fuse, without_low_scores
from sdst.types import Output

FUSION = Decoding(nms="fusion", sigma=0.5, iou_threshold=0.8, round_to=None, max_moments=None)


def overlap(one: list[float], other: list[float]) -> float:
    (a, b), (c, d) = one, other
    inter = max(0.0, min(b, d) - max(a, c))
    union = (b - a) + (d - c) - inter
    return inter / union if union > 0 else 0.0


def naive_fusion(windows: list[list[float]], scores: list[float], threshold: float) -> list[list[float]]:
    """(start, end, score) of every group; each window joins the group whose weighted mean it overlaps most."""
    groups: list[list[int]] = []
    means: list[list[float]] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        overlaps = [overlap(mean, windows[i]) for mean in means]
        best = max(range(len(means)), key=overlaps.__getitem__, default=0)
        if not means or overlaps[best] <= threshold:
            best = len(means)
            groups.append([])
            means.append([])
        groups[best].append(i)
        weights = [max(scores[j], 1e-9) for j in groups[best]]
        means[best] = np.average([windows[j] for j in groups[best]], axis=0, weights=weights).tolist()
    return [
        [*mean, sum(scores[i] for i in group) / len(group) * min(len(group), 2) / 2]
        for mean, group in zip(means, groups, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(
    # A coarse grid makes equal windows, empty windows and equal scores frequent; a missing row has no score.
    samples=st.integers(1, 6).flatmap(
        lambda m: st.lists(
            st.lists(
                st.tuples(st.integers(0, 8), st.integers(0, 8), st.one_of(st.none(), st.integers(0, 4))),
                min_size=m,
                max_size=m,
            ),
            min_size=1,
            max_size=3,
        )
    ),
    threshold=st.sampled_from([0.0, 0.31, 0.71]),
)
def test_batched_fusion_equals_the_sequential_one(
    samples: list[list[tuple[int, int, int | None]]], threshold: float
) -> None:
    windows = [[[float(min(a, b)), float(max(a, b))] for a, b, _ in sample] for sample in samples]
    scores = [[-torch.inf if s is None else s / 4 for _, _, s in sample] for sample in samples]
    given_windows = torch.tensor(windows, dtype=torch.float64)
    fused, got = fuse(given_windows, torch.tensor(scores, dtype=torch.float64), threshold)
    for b, sample in enumerate(scores):
        kept = [i for i, score in enumerate(sample) if score > -torch.inf]
        expected = naive_fusion([windows[b][i] for i in kept], [sample[i] for i in kept], threshold)
        is_group = got[b] > -torch.inf
        rows = torch.cat([fused[b], got[b, :, None]], dim=-1)[is_group]
        np.testing.assert_allclose(rows.numpy(), np.reshape(expected, (-1, 3)), rtol=1e-9, atol=1e-9)


def test_fusion_equals_values_computed_by_hand() -> None:
    windows = torch.tensor([[[0.0, 4.0], [0.0, 6.0], [8.0, 9.0]]])
    (moments,) = decode_moments(
        windows, torch.tensor([[0.4, 0.8, 0.5]]), torch.tensor([10.0]), replace(FUSION, iou_threshold=0.5)
    )
    expected = torch.tensor([[0, (0.4 * 4 + 0.8 * 6) / 1.2, 0.6], [8, 9, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(moments, expected, atol=1e-6, rtol=0)


def test_rounding_and_the_limit_follow_fusion() -> None:
    """Rounded first, the windows would end at 4 and 6, and the mean at 5."""
    windows, scores = torch.tensor([[[0.0, 4.9], [0.0, 5.2], [8.0, 9.0]]]), torch.tensor([[0.5, 0.5, 0.9]])
    decoding = replace(FUSION, round_to=2.0, max_moments=1)
    (moments,) = decode_moments(windows, scores, torch.tensor([10.0]), decoding)
    assert moments.tolist() == [pytest.approx([0, 6, 0.5])]


def test_low_scores_are_dropped_but_never_the_best() -> None:
    scores = torch.tensor([[0.05, 0.3, 0.1], [0.01, 0.02, 0.02]])
    kept = without_low_scores(scores) > -torch.inf
    assert kept.tolist() == [[False, True, True], [False, True, True]]


def test_a_score_that_is_no_number_stays() -> None:
    scores = torch.tensor([[torch.nan, 0.5]])
    windows = torch.tensor([[[0.0, 4.0], [6.0, 8.0]]])
    (moments,) = decode_moments(windows, scores, torch.tensor([10.0]), FUSION)
    assert moments[:, 2].isnan().any()


def output() -> Output:
    """Two moments of the last level, and three of a second head: a duplicate, and a point that does not exist."""
    blank = torch.zeros(1, 1, 1, 1)
    return Output(
        class_logits=torch.tensor([[[0.6, 0.02]]]).logit(),
        references=torch.tensor([[[[0.25, 0.5], [0.9, 0.2]]]]),
        saliency=blank[0, 0],
        dense=blank[0],
        query=blank[0, 0],
        video=blank,
        text=blank[0],
        actionness=torch.tensor([[0.6, 0.02]]),
        second_logits=torch.tensor([[0.5, 0.4, 0.9, 0.3]]).logit(),
        second_references=torch.tensor([[[0.25, 0.46], [0.25, 0.44], [0.5, 0.1], [0.9, 0.4]]]),
        second_centre_logits=torch.tensor([[0.5, 0.4, 0.9, 0.3]]).logit(),
        second_mask=torch.tensor([[True, True, False, True]]),
    )


def test_decoding_joins_the_moments_of_both_heads() -> None:
    durations = torch.tensor([100.0], dtype=torch.float64)
    windows, scores = raw_moments(output(), durations, FUSION)
    (moments,) = decode_moments(windows, scores, durations, FUSION)
    first, second = 0.6 / 3.5, 0.5 * 2.5 / 3.5
    start = (first * 0 + second * 2) / (first + second)
    end = (first * 50 + second * 48) / (first + second)
    expected = [[start, end, first + second], [70, 100, 0.3 * 2.5 / 3.5]]
    np.testing.assert_allclose(moments.numpy(), expected, rtol=1e-5)


def test_without_fusion_the_second_head_is_not_used() -> None:
    windows, scores = raw_moments(output(), torch.tensor([100.0]), replace(FUSION, nms="none"))
    assert windows.shape == (1, 2, 2)
    torch.testing.assert_close(scores, torch.tensor([[0.6, 0.02]], dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_model_with_one_head_is_fused_too() -> None:
    alone = replace(output(), second_logits=None)
    windows, scores = raw_moments(alone, torch.tensor([100.0]), FUSION)
    (moments,) = decode_moments(windows, scores, torch.tensor([100.0]), FUSION)
    np.testing.assert_allclose(moments.numpy(), [[0, 50, 0.3]], rtol=1e-5)
