"""``sdst analyze``: groups, upper bounds, calibration and error kinds against plain loops and official numbers."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.corpus import Corpus, make_rows, write_rows
from helpers.shared_data import SHARED, needs_shared
from sdst.analysis.analysis import Analysis, analyze
from sdst.analysis.calibration import calibrate
from sdst.analysis.ceilings import round_moments
from sdst.analysis.groups import GroupScores
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.metrics.error_kinds import error_kinds
from sdst.metrics.evaluation import evaluate
from sdst.models.decoding import round_windows
from sdst.types import Prediction, Record

QVHIGHLIGHTS = SHARED / "annotations/qvhighlights/highlight_val_release.jsonl"
SAMPLE = SHARED / "evaluation/sample_val_preds.jsonl"


def make_task(seed: int, num_queries: int = 40) -> tuple[list[Prediction], list[Record]]:
    """Random queries with predictions that are often close to a true moment."""
    rng = np.random.default_rng(seed)
    predictions, records = [], []
    for qid in range(num_queries):
        duration = float(rng.integers(40, 150))
        bounds = np.sort(rng.choice(int(duration), 2 * int(rng.integers(1, 8)), replace=False)).astype(float)
        moments = bounds.reshape(-1, 2)
        query = " ".join(["word"] * int(rng.integers(1, 25)))
        records.append(Record(qid, f"v{qid}", query, duration, moments))
        guesses = moments[rng.integers(len(moments), size=12)] + rng.integers(-4, 5, (12, 2))
        scores = np.sort(rng.random(12))[::-1]
        windows = np.column_stack([np.sort(guesses, axis=1), scores])
        predictions.append(Prediction(qid, f"v{qid}", query, windows[: int(rng.integers(0, 13))]))
    return predictions, records


def belongs(record: Record, moment: Sequence[float], grouping: str, group: str) -> bool:
    """Whether a moment belongs to a group, written out for each group."""
    assert record.windows is not None
    seconds, middle = moment[1] - moment[0], (moment[0] + moment[1]) / 2
    count, words = len(record.windows), record.query.count(" ") + 1
    return {
        "short": seconds <= 10,
        "middle": 10 < seconds <= 30,
        "long": seconds > 30,
        "first third": middle <= record.duration / 3,
        "middle third": record.duration / 3 < middle <= record.duration * 2 / 3,
        "last third": middle > record.duration * 2 / 3,
        "1": count == 1,
        "2": count == 2,
        "3 to 5": 3 <= count <= 5,
        "over 5": count > 5,
        "up to 5": words <= 5,
        "6 to 10": 6 <= words <= 10,
        "11 to 15": 11 <= words <= 15,
        "16 to 20": 16 <= words <= 20,
        "over 20": words > 20,
    }[group]


def same(found: GroupScores | None, wanted: dict[str, Any], num_queries: int, num_moments: int) -> None:
    if num_queries == 0:
        assert found is None
        return
    assert found is not None
    assert (found.num_queries, found.num_moments) == (num_queries, num_moments)
    numbers = (found.r1_at_50, found.r1_at_70, found.mean_iou, found.mean_ap)
    keys = ("MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mIoU", "MR-full-mAP")
    assert numbers == pytest.approx([wanted[key] for key in keys], abs=0.011)


@pytest.mark.parametrize("seed", range(3))
def test_group_scores_equal_an_evaluation_of_the_moments_in_the_group(seed: int) -> None:
    predictions, records = make_task(seed)
    analysis = analyze(predictions, records, "charades")
    assert sum(map(len, analysis.groups.values())) == 15
    for grouping, groups in analysis.groups.items():
        seen = 0
        for group, found in groups.items():
            chosen = []
            for prediction, record in zip(predictions, records, strict=True):
                assert record.windows is not None
                inside = [m for m in record.windows.tolist() if belongs(record, m, grouping, group)]
                if inside:
                    kept = Record(record.qid, record.vid, record.query, record.duration, np.array(inside))
                    chosen.append((prediction, kept))
            num_moments = sum(len(record.windows) for _, record in chosen if record.windows is not None)
            seen += num_moments
            brief = evaluate(*map(list, zip(*chosen, strict=True)), "charades")["brief"] if chosen else {}
            same(found, brief, len(chosen), num_moments)
        assert seen == analysis.overall.num_moments  # each moment is in exactly one group


@needs_shared
def test_length_groups_equal_the_official_numbers() -> None:
    official = json.loads((SHARED / "evaluation/sample_val_preds_metrics_raw.json").read_text())
    analysis = analyze(read_predictions(SAMPLE), read_annotations(QVHIGHLIGHTS).records)
    groups = {"full": analysis.overall, **analysis.groups["length of the moment"]}
    assert list(groups) == ["full", "short", "middle", "long"]
    for name, found in groups.items():
        assert found is not None
        wanted = official[name]
        assert found.mean_ap == wanted["MR-mAP"]["average"]
        assert (found.r1_at_50, found.r1_at_70) == (wanted["MR-R1"]["0.5"], wanted["MR-R1"]["0.7"])


@needs_shared
def test_upper_bounds_equal_those_of_the_official_evaluation() -> None:
    """The bounds of rounding are compared with a loop over the rows of Charades-STA and TACoS."""
    by_name, rounded = {}, {}
    files = {
        "qvhighlights": QVHIGHLIGHTS,
        "charades": SHARED / "annotations/charades/charades_test_release.jsonl",
        "tacos": SHARED / "annotations/tacos/test.jsonl",
    }
    for dataset, path in files.items():
        records = read_annotations(path).records
        analysis = analyze(perfect(records), records, dataset)
        by_name[dataset] = {ceiling.oracle: ceiling for ceiling in analysis.ceilings}
        assert analysis.overall == by_name[dataset]["the true moments"].scores
        if dataset == "qvhighlights":
            highlights = analysis.highlight_ceilings["HL-min-VeryGood"]
            assert 61 <= round(highlights["HL-mAP"]) <= 64
            # In 97.74 % of the queries at least one annotator rates at least one clip very good.
            assert 96 <= round(highlights["HL-Hit1"]) <= 97.74
        else:
            assert analysis.highlight_ceilings == {}
            unit = {"charades": 1, "tacos": 2}[dataset]
            rounded[dataset] = [rounded_iou(json.loads(line), unit) for line in path.read_text().splitlines()]
    exact = by_name["qvhighlights"]["the true moments"]
    assert (exact.scores.mean_ap, exact.mean_ap["short"]) == (99.76, 79.75)
    charades, tacos = (
        by_name[name][f"rounded to {unit} s"].scores for name, unit in (("charades", 1), ("tacos", 2))
    )
    assert charades.mean_iou == pytest.approx(100 * np.mean(rounded["charades"]), abs=0.006)
    assert charades.r1_at_70 == pytest.approx(100 * np.mean(np.array(rounded["charades"]) >= 0.7), abs=0.006)
    assert tacos.r1_at_70 == pytest.approx(93.8, abs=0.05)
    # Here, windows that would become empty by rounding are one clip long.
    assert 0 <= tacos.mean_iou - 100 * np.mean(rounded["tacos"]) < 0.1


def rounded_iou(row: dict[str, Any], unit: int) -> float:
    """IoU of a row's only moment with its rounded version."""
    ((start, end),) = row["relevant_windows"]
    first, last = round(start / unit) * unit, min(round(end / unit) * unit, row["duration"])
    return max(0, min(end, last) - max(start, first)) / (max(end, last) - min(start, first))


def perfect(records: Sequence[Record]) -> list[Prediction]:
    answers = []
    for record in records:
        assert record.windows is not None
        windows = [[start, end, 1.0] for start, end in record.windows.tolist()]
        answers.append(Prediction(record.qid, record.vid, record.query, np.array(windows)))
    return answers


def test_perfect_predictor_scores_100_for_few_moments_of_equal_length() -> None:
    records = [
        Record(qid, "v", "a b", 60.0, np.array([[4.0 * k, 4.0 * k + 4] for k in range(qid % 3 + 1)]))
        for qid in range(9)
    ]
    analysis = analyze(perfect(records), records, "charades")
    scores = [analysis.overall, *(s for groups in analysis.groups.values() for s in groups.values() if s)]
    assert len(scores) == 1 + 1 + 1 + 3 + 1
    for found in scores:
        assert (found.r1_at_50, found.r1_at_70, found.mean_iou, found.mean_ap) == (100, 100, 100, 100)
    first, *limited = analysis.ceilings
    assert set(first.mean_ap.values()) == {None, 100}
    by_name = {ceiling.oracle: ceiling.scores.mean_ap for ceiling in limited}
    assert by_name["rounded to 4 s"] == 100
    assert by_name["at most 1 per query"] == round(100 * (1 + 1 / 2 + 1 / 3) / 3, 2)
    assert by_name["at most 2 per query"] == round(100 * (1 + 1 + 2 / 3) / 3, 2)
    assert analysis.kinds["right"] == 9
    assert analysis.kinds["missed"] == analysis.kinds["duplicate"] == 0
    for calibration in analysis.calibration.values():
        assert calibration is not None
        assert (calibration.share_right, calibration.error) == (1, 0)


def test_order_of_queries_does_not_matter() -> None:
    predictions, records = make_task(7)
    order = np.random.default_rng(0).permutation(len(records))
    shuffled = analyze(predictions[::-1], [records[index] for index in order], "charades")
    usual = analyze(predictions, records, "charades")
    assert flat(shuffled) == pytest.approx(flat(usual))


def flat(analysis: Analysis) -> list[float]:
    """All numbers of an analysis, including calibration."""
    numbers = [
        score for groups in analysis.groups.values() for s in groups.values() if s for score in values(s)
    ]
    numbers += [score for ceiling in analysis.ceilings for score in values(ceiling.scores)]
    numbers += analysis.kinds.values()
    for found in analysis.calibration.values():
        assert found is not None
        numbers += [found.error, found.share_right, *(part.num_moments for part in found.bins)]
    return numbers


def values(scores: GroupScores) -> list[float]:
    return [getattr(scores, name) for name in GroupScores.__slots__]


def test_error_kinds_are_counted_per_query() -> None:
    predictions, records = make_task(3)
    counted = analyze(predictions, records, "charades").kinds
    for kind, count in counted.items():
        kinds = [error_kinds(p.windows, r.windows) for p, r in zip(predictions, records, strict=True)]
        assert count == sum(kind in found for found in kinds)
    assert all(counted.values())  # each kind occurs


scored = st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(0, 20)).map(
    lambda t: (float(t[0]), float(t[0] + t[1]), t[2] / 20)
)


@given(
    st.lists(
        st.tuples(st.lists(scored, max_size=4), st.lists(scored, min_size=1, max_size=3)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 4),
)
def test_calibration_equals_a_loop_over_moments_and_bins(queries: Any, count: int) -> None:
    windows = [np.array(predicted).reshape(-1, 3) for predicted, _ in queries]
    moments = [np.array(true)[:, :2] for _, true in queries]
    judged = []  # score, whether correct
    for predicted, true in queries:
        for start, end, score in predicted[:count]:
            seconds = set(range(int(start), int(end)))
            overlaps = [set(range(int(a), int(b))) for a, b, _ in true]
            iou = max(len(seconds & other) / len(seconds | other) for other in overlaps)
            judged.append((score, iou >= 0.5))
    found = calibrate(windows, moments, count)
    if not judged:
        assert found is None
        return
    assert found is not None
    error = 0.0
    for place, part in enumerate(found.bins):
        inside = [pair for pair in judged if min(int(round(pair[0] * 20) // 2), 9) == place]
        assert part.num_moments == len(inside)
        if inside:
            mean = sum(score for score, _ in inside) / len(inside)
            share = sum(right for _, right in inside) / len(inside)
            assert (part.mean_score, part.share_right) == pytest.approx((mean, share))
            error += len(inside) / len(judged) * abs(mean - share)
    assert found.error == pytest.approx(error)
    assert found.num_moments == len(judged)


@pytest.mark.parametrize("score", [-0.1, 1.5])
def test_no_calibration_for_scores_outside_0_to_1(score: float) -> None:
    windows, moments = [np.array([[0.0, 4.0, 0.5], [0.0, 4.0, score]])], [np.array([[0.0, 4.0]])]
    assert calibrate(windows, moments, 2) is None
    assert calibrate(windows, moments, 1) is not None


@given(
    st.lists(st.tuples(st.floats(0, 39), st.floats(0.01, 30)), min_size=1, max_size=5),
    st.sampled_from([0.1, 0.5, 1.0, 2.0, 4.0, 50.0]),
)
def test_rounding_equals_the_decoders(spans: list[tuple[float, float]], unit: float) -> None:
    moments = np.array([[start, min(start + length, 40.0)] for start, length in spans])
    wanted = round_windows(torch.from_numpy(moments)[None], torch.full((1, 1, 1), 40.0).double(), unit)[0]
    assert round_moments(moments, 40.0, unit) == pytest.approx(wanted.numpy())


# --- the command ---


def analyse(capsys: pytest.CaptureFixture[str], *arguments: object) -> Path:
    assert main(["analyze", *map(str, arguments)]) == 0
    return Path(capsys.readouterr().out.strip())


def test_analysis_of_a_run(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "made"
    text = analyse(capsys, finished, "--split", "test", "--out", out)
    assert text == out / "analysis.md"
    content = json.loads((out / "analysis.json").read_text())
    assert content["dataset"] == "qvhighlights"
    assert content["predictions"] == str(finished / "test_submission.jsonl")
    brief = json.loads((finished / "metrics.json").read_text())["best"]["test"]
    assert content["overall"]["r1_at_50"] == brief["MR-full-R1@0.5"]
    assert content["overall"]["mean_ap"] == brief["MR-full-mAP"]
    assert content["overall"]["num_queries"] == 4
    markdown = text.read_text()
    assert markdown.startswith("# finished, test, SIMULATED features (n = 4 queries)\n")
    assert "Omitted (no queries): middle, long." in markdown
    assert 'all groups by length or position can lie below "all"' in markdown
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["calibration.png", "ceilings.png", "groups.png", "kinds.png"]
    assert all(f"]({name})" in markdown for name in pictures)


def test_analysis_of_a_prediction_file_is_written_next_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without matplotlib, without saliency, and with queries that have no predictions."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    rows = make_rows("val", 3, scores=False)
    annotations = write_rows(tmp_path / "true.jsonl", rows)
    answers = [{"qid": row["qid"], "pred_relevant_windows": []} for row in rows]
    answers[0]["pred_relevant_windows"] = [[*rows[0]["relevant_windows"][0], 7.5]]
    predictions = write_rows(tmp_path / "their.jsonl", answers)
    text = analyse(capsys, predictions, "--annotations", annotations)
    assert text == tmp_path / "analysis" / "analysis.md"
    content = json.loads((text.parent / "analysis.json").read_text())
    assert content["dataset"] == "charades"
    assert content["overall"]["r1_at_70"] == 33.33
    assert content["kinds"]["right"] == 1
    assert content["kinds"]["missed"] == 2
    assert set(content["calibration"].values()) == {None}
    markdown = text.read_text()
    assert "scores are not probabilities" in markdown
    assert "![" not in markdown
    assert "| 1 | 3 | 3 | 33.33 | 33.33 | 33.33 | 33.33 |" in markdown


def test_tables_and_json_have_the_same_numbers(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = analyse(capsys, finished, "--out", tmp_path)
    content = json.loads((tmp_path / "analysis.json").read_text())
    lines = text.read_text().splitlines()
    for groups in content["groups"].values():
        for group, scores in groups.items():
            if scores is not None:
                numbers = [f"{scores[key]:.2f}" for key in ("r1_at_50", "r1_at_70", "mean_iou", "mean_ap")]
                cells = [group, scores["num_queries"], scores["num_moments"], *numbers]
                assert f"| {' | '.join(map(str, cells))} |" in lines
    for kind, count in content["kinds"].items():
        share = f"{100 * count / content['overall']['num_queries']:.1f}"
        assert any(line.startswith(f"| {kind} | {count} | {share} |") for line in lines)
    assert not any(math.isnan(part["low"]) for c in content["calibration"].values() for part in c["bins"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}", "--split", "val"], "not a finished run"),
        (["{run}", "--split", "dev"], "choose --split from val, test"),
        (["{run}", "--dataset", "tacos"], "--dataset is only for prediction files"),
        (["{run}", "--annotations", "{train}"], "must hold the same queries"),
        (["{run}/val_submission.jsonl"], "also needs --annotations"),
        (
            ["{run}/val_submission.jsonl", "--annotations", "{val}", "--split", "val"],
            "--split is only for run",
        ),
        (["{run}/val_submission.jsonl", "--annotations", "{unlabelled}"], "no 'relevant_windows'"),
        (["{tmp}/nothing.jsonl", "--annotations", "{val}"], "nothing.jsonl: cannot be read"),
        (["{moved}"], "split val not found at elsewhere.jsonl; give the file with --annotations"),
        (["{damaged}"], "metrics.json: damaged"),
    ],
)
def test_user_error_is_one_line(
    finished: Path,
    corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    unlabelled = [
        {key: row[key] for key in ("qid", "query", "vid", "duration")}
        for row in map(json.loads, corpus.paths["val"].read_text().splitlines())
    ]
    places = {"tmp": tmp_path, "run": finished, **corpus.paths}
    places["unlabelled"] = write_rows(tmp_path / "unlabelled.jsonl", unlabelled)
    for name in ("moved", "damaged"):
        places[name] = tmp_path / name
        places[name].mkdir()
        for file in ("metrics.json", "val_submission.jsonl"):
            (places[name] / file).write_text((finished / file).read_text())
    (places["moved"] / "config.yaml").write_text("data: {annotations: {val: elsewhere.jsonl}}\n")
    (places["damaged"] / "metrics.json").write_text('{"selected": "val"}')
    assert main(["analyze", *(argument.format(**places) for argument in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
