"""mAP of ranked clips by domain against loops that follow UMT's and UniVTG's programs line by line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdst.errors import UserError
from sdst.metrics.evaluation import evaluate
from sdst.metrics.ranking import TVSUM, YOUTUBE, average_precision, domain_metrics
from sdst.types import Prediction, Record


def looped_precision(saliency, label, k=None):
    """The loop of UMT's ``evaluate``: label is one rater's 0 or 1 per clip."""
    order = sorted(range(min(len(saliency), len(label))), key=lambda clip: -saliency[clip])
    ranked = [float(label[clip]) for clip in order][:k]
    num_gt = sum(ranked)
    if num_gt == 0:
        return 0
    hits = ap = rec = 0
    prc = 1
    for j, gt in enumerate(ranked):
        hits += gt
        _rec = hits / num_gt
        _prc = hits / (j + 1)
        ap += (_rec - rec) * (prc + _prc) / 2
        rec, prc = _rec, _prc
    return ap


def above_median(ratings):
    """``torch.where(label > label.median(), 1, 0)``; torch takes the lower one of two middle values."""
    median = sorted(ratings)[(len(ratings) - 1) // 2]
    return [rating > median for rating in ratings]


@st.composite
def videos(draw):
    num_clips = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    saliency = rng.integers(-3, 4, draw(st.integers(1, 14))).astype(float)  # equal scores are common
    return (
        saliency,
        rng.integers(1, 6, (num_clips, 20)).astype(float),
        draw(st.sampled_from(["BK", "BT", "DS"])),
    )


@given(st.lists(videos(), min_size=1, max_size=6))
def test_tvsum_is_the_top_5_map_of_twenty_raters(drawn):
    found = domain_metrics(*zip(*drawn, strict=True), TVSUM)
    by_domain = {}
    for saliency, labels, domain in drawn:
        aps = [looped_precision(saliency, above_median(labels[:, rater]), k=5) for rater in range(20)]
        by_domain.setdefault(domain, []).append(aps)
    means = {f"mAP-{domain}": 100 * np.mean(aps) for domain, aps in by_domain.items()}
    assert found == pytest.approx({"mAP": np.mean(list(means.values())), **means}, abs=1e-9)


@given(st.lists(videos(), min_size=1, max_size=6))
def test_youtube_highlights_is_the_map_of_all_clips(drawn):
    drawn = [(saliency, (labels[:, :1] > 3).astype(float), domain) for saliency, labels, domain in drawn]
    found = domain_metrics(*zip(*drawn, strict=True), YOUTUBE)
    for domain in {video[2] for video in drawn}:
        aps = [looped_precision(saliency, labels[:, 0]) for saliency, labels, of in drawn if of == domain]
        assert found[f"mAP-{domain}"] == pytest.approx(100 * np.mean(aps), abs=1e-9)


def test_only_the_most_salient_clips_count_and_the_lower_median_divides():
    labels = np.array([[1.0], [5.0], [5.0], [1.0]])  # the median of torch is 1, that of numpy 3
    assert average_precision(np.array([0.1, 0.9, 0.8, 0.2]), labels, TVSUM).tolist() == [1]
    flat = np.array([[2.0], [2.0], [2.0], [4.0]])
    assert average_precision(np.array([9.0, 8, 7, 6]), flat, TVSUM).tolist() == [(0 + 1 / 4) / 2]
    six = np.array([[0.0]] * 5 + [[1.0]])
    assert average_precision(-np.arange(6.0), six, TVSUM).tolist() == [0]
    assert average_precision(-np.arange(6.0), six, YOUTUBE).tolist() == [(0 + 1 / 6) / 2]


def test_evaluate_finds_the_protocol_by_the_labels_and_pairs_by_qid():
    no_windows = np.zeros((0, 3))
    records = [
        Record(qid, f"v{qid}", "q", 8, clip_labels=np.eye(4)[:, [qid]], domain="dog" if qid else "surfing")
        for qid in range(3)
    ]
    predictions = [Prediction(qid, "", "", no_windows, np.eye(4)[qid]) for qid in (2, 0, 1)]
    assert evaluate(predictions, records) == {"brief": {"mAP": 100, "mAP-dog": 100, "mAP-surfing": 100}}
    mute = [Prediction(qid, "", "", no_windows) for qid in range(3)]
    with pytest.raises(UserError, match="qid 0 has no saliency"):
        evaluate(mute, records)
