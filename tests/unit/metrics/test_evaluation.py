"""The NumPy metrics equal the official result of a real file, and plain loops over small ones."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.shared_data import SHARED, needs_shared
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.errors import UserError
from sdst.metrics import highlight, moment
from sdst.metrics.evaluation import evaluate
from sdst.types import Prediction, Record

THRESHOLDS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def make_record(qid, windows, clip_scores=None):
    duration = 2.0 * len(clip_scores) if clip_scores is not None else 1000.0
    scores = None if clip_scores is None else np.array(clip_scores)
    return Record(qid, "video", "a query", duration, np.array(windows, dtype=float), scores)


def make_prediction(qid, windows, saliency=None):
    values = None if saliency is None else np.array(saliency, dtype=float)
    return Prediction(qid, "video", "a query", np.array(windows, dtype=float).reshape(-1, 3), values)


def perfect_prediction(record, saliency=None):
    return make_prediction(record.qid, [[*window, 1.0] for window in record.windows], saliency)


# The metrics again as plain loops.


def naive_iou(a, b):
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union > 0 else 0.0


def naive_moment_ap(predictions, moments, threshold):
    ranked = sorted(predictions[:10], key=lambda window: -window[2])
    taken, hits = set(), []
    for window in ranked:
        ious = [naive_iou(window, true) for true in moments]
        best_first = sorted(range(len(moments)), key=lambda g: (ious[g], g), reverse=True)
        chosen = next((g for g in best_first if ious[g] >= threshold and g not in taken), None)
        taken.add(chosen)
        hits.append(chosen is not None)
    area = 0.0
    for rank, hit in enumerate(hits):
        if hit:
            precisions = [sum(hits[: r + 1]) / (r + 1) for r in range(rank, len(hits))]
            area += max(precisions) / len(moments)
    return area


def naive_highlight_ap(saliency, labels):
    saliency = [*saliency[: len(labels)], *[0.0] * (len(labels) - len(saliency))]
    points = []  # (number found, precision) at every distinct saliency, the highest first
    for value in sorted(set(saliency), reverse=True):
        selected = [label for score, label in zip(saliency, labels, strict=True) if score >= value]
        points.append((sum(selected), sum(selected) / len(selected)))
    found = [0] + [count for count, _ in points]
    growing = [i for i in range(len(points)) if found[i + 1] > found[i]]
    return float(np.mean([max(p for _, p in points[i:]) for i in growing])) if growing else 0.0


def spans(max_size, min_size=0):
    # A coarse grid, so that equal IoUs and IoUs exactly on a threshold are common.
    span = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    return st.lists(span, min_size=min_size, max_size=max_size)


scored_windows = (
    spans(12)
    .flatmap(
        lambda windows: st.tuples(
            *[st.integers(0, 3).map(lambda score, w=w: [*w, score / 3]) for w in windows]
        )
    )
    .map(list)
)
queries = st.lists(st.tuples(scored_windows, spans(5, min_size=1)), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(queries)
def test_moment_metrics_equal_plain_loops(pairs):
    predictions = [np.array(windows, dtype=float).reshape(-1, 3) for windows, _ in pairs]
    moments = [np.array(true, dtype=float) for _, true in pairs]
    ap = [[naive_moment_ap(windows, true, t) for t in THRESHOLDS] for windows, true in pairs]
    np.testing.assert_allclose(moment.average_precision(predictions, moments), ap, atol=1e-12)
    iou = [max(naive_iou(windows[0], g) for g in true) if windows else 0.0 for windows, true in pairs]
    np.testing.assert_allclose(moment.top1_iou(predictions, moments), iou, atol=1e-12)
    metrics = moment.moment_metrics(predictions, moments)
    assert list(metrics["MR-mAP"]) == [*map(str, THRESHOLDS), "average"]
    assert list(metrics["MR-R1"]) == [*map(str, THRESHOLDS)]
    assert metrics["MR-mAP"]["average"] == pytest.approx(100 * np.mean(ap), abs=1e-9)
    assert metrics["MR-mAP"]["0.75"] == pytest.approx(100 * np.mean(ap, axis=0)[5], abs=1e-9)
    assert metrics["MR-mIoU"] == pytest.approx(100 * np.mean(iou), abs=1e-9)


triple = st.tuples(*[st.integers(0, 4)] * 3)
saliency_and_scores = st.tuples(
    st.lists(st.integers(-2, 2), min_size=1, max_size=9), st.lists(triple, min_size=1, max_size=8)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(saliency_and_scores, min_size=1, max_size=4))
def test_highlight_metrics_equal_plain_loops(pairs):
    metrics = highlight.highlight_metrics(
        [np.array(saliency, dtype=float) for saliency, _ in pairs], [np.array(scores) for _, scores in pairs]
    )
    for name, rating in {"Fair": 2, "Good": 3, "VeryGood": 4}.items():
        aps = [
            naive_highlight_ap(saliency, [score[annotator] >= rating for score in scores])
            for saliency, scores in pairs
            for annotator in range(3)
        ]
        hits = [
            (clip := saliency.index(max(saliency))) < len(scores) and max(scores[clip]) >= rating
            for saliency, scores in pairs
        ]
        assert metrics[f"HL-min-{name}"]["HL-mAP"] == pytest.approx(100 * np.mean(aps), abs=1e-9)
        assert metrics[f"HL-min-{name}"]["HL-Hit1"] == pytest.approx(100 * np.mean(hits), abs=1e-9)


@pytest.mark.parametrize("percent", range(50, 100, 5))
def test_an_iou_exactly_on_a_threshold_is_a_hit_there_and_a_miss_above(percent):
    metrics = moment.moment_metrics([np.array([[0.0, percent / 5, 1.0]])], [np.array([[0.0, 20.0]])])
    for name in ("MR-R1", "MR-mAP"):
        hit_at = [t for t in THRESHOLDS if metrics[name][str(t)] == 100]
        missed_at = [t for t in THRESHOLDS if metrics[name][str(t)] == 0]
        assert max(hit_at) == percent / 100
        assert hit_at + missed_at == THRESHOLDS


def test_a_zero_length_window_is_a_miss():
    metrics = moment.moment_metrics([np.array([[5.0, 5.0, 1.0]])], [np.array([[0.0, 20.0]])])
    assert metrics["MR-mIoU"] == metrics["MR-mAP"]["average"] == 0


def test_recall_uses_the_first_listed_window_and_map_ranks_the_first_ten_by_score():
    right, wrong = [0, 20, 0.9], [500, 520, 0.1]
    true = [make_record(1, [[0, 20]])]
    brief = evaluate([make_prediction(1, [wrong, right])], true)["brief"]
    assert (brief["MR-full-R1@0.5"], brief["MR-full-mAP"]) == (0, 100)
    brief = evaluate([make_prediction(1, [wrong] * 10 + [right])], true)["brief"]
    assert (brief["MR-full-R1@0.5"], brief["MR-full-mAP"]) == (0, 0)


def test_an_empty_list_of_windows_counts_as_a_miss():
    records = [make_record(1, [[0, 20]]), make_record(2, [[0, 20]])]
    brief = evaluate([make_prediction(1, []), perfect_prediction(records[1])], records)["brief"]
    assert {brief["MR-full-R1@0.3"], brief["MR-full-mIoU"], brief["MR-full-mAP"]} == {50}


@pytest.mark.parametrize(
    ("length", "group"),
    [(1, "short"), (10, "short"), (11, "middle"), (30, "middle"), (31, "long"), (150, "long")],
)
def test_a_length_group_includes_its_upper_end_and_empty_groups_have_no_value(length, group):
    records = [make_record(1, [[0, length]])]
    for dataset in ("qvhighlights", "charades", "tacos"):
        result = evaluate([perfect_prediction(records[0])], records, dataset)
        expected = {name: 100 if name == group else None for name in ("long", "middle", "short")}
        assert {name: result["brief"][f"MR-{name}-mAP"] for name in expected} == expected
        for name, value in expected.items():
            assert set(result[name]["MR-mAP"].values()) | set(result[name]["MR-R1"].values()) == {value}


def test_only_qvhighlights_limits_long_moments_to_150_s():
    records = [make_record(1, [[0, 151]])]
    long = {
        d: evaluate([perfect_prediction(records[0])], records, d)["long"] for d in ("qvhighlights", "tacos")
    }
    assert long["qvhighlights"]["MR-mAP"]["average"] is None
    assert long["tacos"]["MR-mAP"]["average"] == 100


def test_a_group_keeps_its_own_moments_but_all_predictions():
    records = [make_record(1, [[0, 10], [100, 150]])]
    predictions = [make_prediction(1, [[100, 150, 0.9], [0, 10, 0.8]])]
    brief = evaluate(predictions, records)["brief"]
    assert (brief["MR-full-mAP"], brief["MR-long-mAP"], brief["MR-short-mAP"]) == (100, 100, 50)


def test_the_dataset_decides_which_metrics_are_reported():
    scores = [[4, 4, 4]] * 10
    labelled, plain = [make_record(1, [[0, 20]], scores)], [make_record(1, [[0, 20]])]
    predictions = [make_prediction(1, [[0, 20, 1]], [1.0] * 10)]
    assert "HL-min-Fair" in evaluate(predictions, labelled)
    assert "HL-min-Fair" not in evaluate(predictions, labelled, "charades")
    assert "HL-min-Fair" not in evaluate(predictions, plain, "qvhighlights")
    assert "HL-min-Fair" not in evaluate([make_prediction(1, [[0, 20, 1]])], labelled)
    single = evaluate(predictions, plain)
    assert single == evaluate(predictions, plain, "charades") == evaluate(predictions, plain, "tacos")
    assert single["full"]["MR-mIoU"] == 100
    assert {"MR-full-R1@0.3", "MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mIoU"} <= set(single["brief"])
    official, world = (evaluate(predictions, labelled, name)["brief"] for name in ("qvhighlights", "world"))
    assert "MR-full-mIoU" not in official
    assert world == official | {"MR-full-mIoU": 100}


def test_invalid_input_is_refused_and_the_message_names_the_qid():
    scores = [[4, 4, 4]] * 10
    records = [make_record(qid, [[0, 20]], scores) for qid in (1, 2)]
    good = [make_prediction(qid, [[0, 20, 1]], [1.0]) for qid in (1, 2)]
    unlabelled = Record(2, "video", "a query", 20.0)
    cases = [
        (good[:1], records, None, "1 annotated queries have no prediction .qid 2.; both"),
        (good, records[:1], None, "1 predictions have no annotation .qid 2."),
        (
            [good[0], make_prediction("2", [])],
            records,
            None,
            "no prediction .qid 2., .* no annotation .qid '2'.",
        ),
        ([*good, good[0]], records, None, "repeat a qid"),
        ([good[0], make_prediction(2, [])], records, None, "qid 2 has no saliency, but"),
        (good, [records[0], make_record(2, [[0, 20]])], None, "qid 2 has no saliency labels, but"),
        (good, [records[0], unlabelled], None, "qid 2 has no 'relevant_windows'"),
        (good, records, "anet", "unknown dataset 'anet'"),
    ]
    for predictions, truths, dataset, message in cases:
        with pytest.raises(UserError, match=message):
            evaluate(predictions, truths, dataset)


def assert_same_in_order(found, expected):
    """Equal, and dicts in the same order."""
    assert json.dumps(found) == json.dumps(expected)


@pytest.fixture(scope="module")
def val():
    return read_annotations(SHARED / "annotations/qvhighlights/highlight_val_release.jsonl").records


@needs_shared
def test_the_official_result_is_reproduced_to_the_last_digit_in_any_order_of_rows(val):
    predictions = read_predictions(SHARED / "evaluation/sample_val_preds.jsonl")
    expected = json.loads((SHARED / "evaluation/sample_val_preds_metrics_raw.json").read_text())
    assert_same_in_order(evaluate(predictions, val), expected)
    assert_same_in_order(evaluate(predictions[::-1], val, "qvhighlights"), expected)


@needs_shared
def test_a_perfect_predictor_reaches_the_known_ceilings(val):
    # 13 queries have more than ten moments, and the hits of other length groups count as misses.
    best_rating = [perfect_prediction(record, record.clip_scores.max(axis=1)) for record in val]
    brief = evaluate(best_rating, val)["brief"]
    assert (brief["MR-full-R1@0.7"], brief["MR-full-mAP"], brief["MR-short-mAP"]) == (100, 99.76, 79.75)
    # 35 of the 1550 queries have no clip that anyone rated 4.
    assert brief["HL-min-VeryGood-Hit1"] == pytest.approx(100 * (1 - 35 / 1550), abs=0.005)


@needs_shared
def test_an_annotator_without_a_highlight_counts_as_zero(val):
    labels = [record.clip_scores for record in val]
    without = {0: 491, 1: 450, 2: 440}  # queries in which the annotator never gave a 4
    for annotator, count in without.items():
        own = [scores[:, annotator].astype(float) for scores in labels]
        precision = highlight.average_precision(own, labels)["VeryGood"][:, annotator]
        assert math.isclose(precision.mean(), 1 - count / 1550)


@needs_shared
@pytest.mark.parametrize(
    ("file", "without_long"),
    [("charades/charades_test_release.jsonl", True), ("tacos/test.jsonl", False)],
)
def test_perfect_single_moments_score_100_and_missing_groups_have_no_value(file, without_long):
    records = read_annotations(SHARED / "annotations" / file).records
    brief = evaluate([perfect_prediction(record) for record in records], records)["brief"]
    assert (brief.pop("MR-long-mAP") is None) == without_long
    assert set(brief.values()) == {100}


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), max_size=8), min_size=1, max_size=5)
)
def test_r5_is_the_best_pair_of_the_first_five_windows(listed):
    rng = np.random.default_rng(len(listed))
    truth = [np.array([[s, s + 4.0] for s in sorted(rng.choice(20, 2, replace=False))]) for _ in listed]
    records = [Record(qid, "v", "q", 40, moments) for qid, moments in enumerate(truth)]
    predictions = [
        make_prediction(qid, [[s, s + w, 1 - rank / 10] for rank, (s, w) in enumerate(windows)])
        for qid, windows in enumerate(listed)
    ]
    brief = evaluate(predictions, records, "ego4d_nlq")["brief"]
    for count in (1, 5):
        best = []
        for windows, moments in zip(listed, truth, strict=True):
            pairs = [
                max(0, min(s + w, e) - max(s, b)) / (max(s + w, e) - min(s, b))
                for s, w in windows[:count]
                for b, e in moments
            ]
            best.append(max(pairs, default=0))
        for threshold in (0.3, 0.5):
            expected = 100 * np.mean(np.array(best) >= threshold)
            assert brief[f"MR-full-R{count}@{threshold}"] == pytest.approx(expected, abs=0.006)
