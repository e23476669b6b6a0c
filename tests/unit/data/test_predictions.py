"""Prediction files: round trip, and other models' files are read unchanged or refused."""

import errno
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.shared_data import SHARED, needs_shared
from sdst.data.predictions import read_predictions, write_predictions
from sdst.errors import UserError
from sdst.types import Prediction

ROW = {"qid": 7, "pred_relevant_windows": [[2, 6, 0.1], [0, 4, 0.9]], "pred_saliency_scores": [0.5, -1]}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("predictions") / "rows.jsonl"


def make_prediction(qid, windows, saliency=None):
    values = None if saliency is None else np.array(saliency, dtype=float)
    return Prediction(qid, "vïd", "a “query”", np.array(windows, dtype=float).reshape(-1, 3), values)


numbers = st.floats(allow_nan=False, allow_infinity=False)
windows = st.lists(
    st.tuples(numbers, numbers, numbers).map(lambda w: [min(w[:2]), max(w[:2]), w[2]]), max_size=4
)
predictions = st.lists(
    st.builds(
        make_prediction,
        st.integers() | st.text(),
        windows,
        st.none() | st.lists(numbers, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda prediction: prediction.qid,
)


@given(predictions)
def test_written_predictions_are_read_back_exactly_with_windows_by_score(path, written):
    write_predictions(path, written)
    found = read_predictions(path)
    assert len(found) == len(written)
    for old, new in zip(written, found, strict=True):
        assert (new.qid, new.vid, new.query) == (old.qid, old.vid, old.query)
        assert new.windows.shape == (len(old.windows), 3)
        # Python's sort is stable, and so must ours be: equal scores keep their order.
        assert new.windows.tolist() == sorted(old.windows.tolist(), key=lambda window: -window[2])
        assert (new.saliency is None) == (old.saliency is None)
        if old.saliency is not None:
            assert new.saliency.tolist() == old.saliency.tolist()


def test_a_file_has_the_official_fields(path):
    write_predictions(path, [make_prediction(3, [[0, 4, 0.9]], [1, 2]), make_prediction("b", [])])
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "qid": 3,
        "query": "a “query”",
        "vid": "vïd",
        "pred_relevant_windows": [[0, 4, 0.9]],
        "pred_saliency_scores": [1, 2],
    }
    assert second["pred_relevant_windows"] == []
    assert "pred_saliency_scores" not in second


def test_reading_keeps_the_listed_order_and_needs_neither_names_nor_saliency(path, caplog):
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({"qid": "7", "pred_relevant_windows": []}))
    first, second = read_predictions(path)
    (warning,) = caplog.messages
    assert warning.startswith(f"{path}: rows not sorted by score: 1 (first qid 7);")
    assert first.windows.tolist() == ROW["pred_relevant_windows"]
    assert (first.vid, first.query) == ("", "")
    assert second.windows.shape == (0, 3)
    assert second.saliency is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_relevant_windows": None}, "'pred_relevant_windows' must be a list of lists of 3 numbers"),
        ({"pred_relevant_windows": [[0, 4]]}, "'pred_relevant_windows' must be"),
        ({"pred_relevant_windows": [[0, 4, "0.9"]]}, "'pred_relevant_windows' must be"),
        ({"pred_relevant_windows": [[0, 4, 1], [6, 5, 1]]}, "window [6.0, 5.0, 1.0] ends before it starts"),
        ({"pred_relevant_windows": [[0, 4, float("nan")]]}, "'pred_relevant_windows' holds NaN or Inf"),
        ({"pred_relevant_windows": [[0, float("inf"), 1]]}, "'pred_relevant_windows' holds NaN or Inf"),
        ({"pred_saliency_scores": [0.5, float("nan")]}, "'pred_saliency_scores' holds NaN or Inf"),
        ({"pred_saliency_scores": [[0.5]]}, "'pred_saliency_scores' must be a list of numbers"),
        ({"vid": 5}, "'vid' must be a string, got 5"),
    ],
)
def test_a_bad_field_is_refused_with_file_line_and_qid(path, change, message):
    path.write_text(json.dumps(ROW | {"qid": 6}) + "\n" + json.dumps(ROW | change))
    with pytest.raises(UserError) as error:
        read_predictions(path)
    assert str(error.value).startswith(f"{path}:2: qid 7: {message}")


def test_a_missing_field_and_a_repeated_qid_are_refused(path):
    path.write_text('{"qid": 7}')
    with pytest.raises(UserError, match="'pred_relevant_windows' is missing"):
        read_predictions(path)
    path.write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW)}")
    with pytest.raises(UserError, match="2: qid 7 is also on line 1"):
        read_predictions(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "predictions.jsonl"
    write_predictions(target, [make_prediction(1, [])])
    before = target.read_bytes()
    with pytest.raises(UserError, match="qid 2: predicted NaN or Inf"):
        write_predictions(target, [make_prediction(1, []), make_prediction(2, [[0, 1, np.nan]])])
    monkeypatch.setattr(Path, "replace", Mock(side_effect=OSError(errno.ENOSPC, "as the system says")))
    with pytest.raises(UserError, match=r"predictions\.jsonl: cannot be written \(No space left on device\)"):
        write_predictions(target, [make_prediction(2, [])])
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_followed_and_an_impossible_place_refused(tmp_path):
    target, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    target.write_text("old")
    link.symlink_to(target)
    write_predictions(link, [make_prediction(1, [])])
    assert link.is_symlink()
    assert [prediction.qid for prediction in read_predictions(target)] == [1]
    with pytest.raises(UserError, match="not a regular file"):
        write_predictions(tmp_path, [])
    with pytest.raises(UserError, match="cannot be written"):
        write_predictions(tmp_path / "absent" / "x.jsonl", [])


@needs_shared
def test_a_real_file_survives_reading_and_writing(path):
    source = SHARED / "evaluation/sample_val_preds.jsonl"
    write_predictions(path, read_predictions(source))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        json.loads(line) for line in source.read_text().splitlines()
    ]
