"""Annotation files: the three released formats, repairs, and refused rows."""

import bz2
import gzip
import io
import json
import lzma
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.shared_data import SHARED, needs_shared
from sdst.data.annotations import clips_of, label_saliency, moments_inside, read_annotations
from sdst.data.predictions import read_predictions
from sdst.errors import UserError
from sdst.files.text import read_text
from sdst.spans import count_clips

PLAIN = {"qid": 7, "query": "a dog runs", "vid": "abc", "duration": 20, "relevant_windows": [[2, 6]]}
RATED = PLAIN | {"relevant_clip_ids": [1, 2], "saliency_scores": [[1, 2, 3], [4, 0, 2]]}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("annotations") / "rows.jsonl"


def read(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_annotations(path)


def test_a_row_with_saliency_becomes_a_record_with_a_score_for_every_clip(path):
    (record,) = read(path, RATED | {"duration": 9}).records
    assert (record.qid, record.vid, record.query, record.duration) == (7, "abc", "a dog runs", 9.0)
    assert record.windows.tolist() == [[2.0, 6.0]]
    assert record.windows.dtype == np.float64
    assert record.clip_scores.tolist() == [[0, 0, 0], [1, 2, 3], [4, 0, 2], [0, 0, 0], [0, 0, 0]]
    assert record.clip_scores.dtype == np.int64


def test_labels_may_be_absent_and_qids_may_be_strings(path):
    unlabelled = {key: PLAIN[key] for key in ("query", "vid", "duration")}
    first, second, third = read(path, PLAIN, unlabelled | {"qid": "7"}, RATED | {"qid": "s17-d69_0"}).records
    assert first.clip_scores is None
    assert second.windows is None
    assert (first.qid, second.qid, third.qid) == (7, "7", "s17-d69_0")


def test_blanks_around_the_query_and_blank_lines_are_dropped(path):
    path.write_text("\n\n" + json.dumps(PLAIN | {"query": "  two  blanks \t"}) + "\n \n")
    assert [record.query for record in read_annotations(path).records] == ["two  blanks"]


def test_windows_are_repaired_sorted_and_counted(path):
    wrong = PLAIN | {"qid": "x", "relevant_windows": [[18, 25], [9, 4], [-3, 2], [30, 12]]}
    annotations = read(path, PLAIN, wrong)
    assert annotations.records[1].windows.tolist() == [[0, 2], [4, 9], [12, 20], [18, 20]]
    assert annotations.repairs.counts == {"reversed windows swapped": 2, "windows cut to their video": 3}
    assert str(annotations.repairs).count("rows.jsonl:2, qid 'x'") == 2
    assert not read(path, PLAIN).repairs


@given(st.lists(st.tuples(st.integers(-30, 50), st.integers(-30, 50)), min_size=1, max_size=4))
def test_any_windows_become_sorted_spans_and_those_inside_can_be_learned(path, windows):
    inside = [(max(0, min(w)), min(20, max(w))) for w in windows]
    kept = [span if span[0] < span[1] else (min(w), max(w)) for span, w in zip(inside, windows, strict=True)]
    annotations = read(path, PLAIN | {"relevant_windows": windows})
    (record,) = annotations.records
    assert record.windows.tolist() == [list(span) for span in sorted(kept)]
    assert moments_inside(record).tolist() == [list(span) for span in sorted(inside) if span[0] < span[1]]
    counts = annotations.repairs.counts
    unusable = {kind: count for kind, count in counts.items() if "length" in kind or "outside" in kind}
    assert sum(unusable.values()) == len(windows) - len(moments_inside(record))


def test_the_first_rows_of_a_repair_are_named(path):
    rows = [PLAIN | {"qid": qid, "relevant_windows": [[9, 9]]} for qid in "abcde"]
    assert str(read(path, PLAIN, *rows).repairs) == (
        f"windows without length, which no prediction can hit: 5 (first at {path}:2, qid 'a', 'b', 'c', ...)"
    )


def test_all_refused_rows_are_counted_in_one_message(path):
    rows = [PLAIN | {"qid": qid, "duration": 0} for qid in range(5)]
    with pytest.raises(UserError) as error:
        read(path, *rows, PLAIN)
    assert str(error.value) == (
        f"{path}:1: qid 0: 'duration' must be a positive number, got 0; 4 more rows are refused "
        "(line 2, line 3, line 4, ...)"
    )


def test_labels_per_clip_have_the_clips_of_the_features(path):
    """The case of 149.98 s, which are 75 clips everywhere in the program."""
    scores = {"relevant_clip_ids": [73, 74], "saliency_scores": [[1, 2, 3]] * 2}
    (record,) = read(path, RATED | scores | {"duration": 149.98}).records
    assert len(record.clip_scores) == count_clips(149.98, 2) == 75
    with pytest.raises(UserError, match=r"must lie in 0\.\.73"):
        read(path, RATED | scores | {"duration": 148.9})


@pytest.mark.parametrize("number", [0, 1])
def test_a_byte_order_mark_is_read_at_the_start_and_where_files_were_joined(path, number):
    rows = [json.dumps(PLAIN), json.dumps(PLAIN | {"qid": 8})]
    rows[number] = "\ufeff" + rows[number]
    path.write_text("\n".join(rows), encoding="utf-8")
    assert [record.qid for record in read_annotations(path).records] == [7, 8]


@pytest.mark.parametrize(
    ("pack", "name"),
    [
        (lambda text: text.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16 text"),
        (lambda text: text.encode("utf-16-le"), "UTF-16 or binary"),
        (lambda text: text.encode("utf-16-be"), "UTF-16 or binary"),
        (lambda text: text.encode("utf-32"), "UTF-32 text"),
        (lambda text: gzip.compress(text.encode()), "gzip; unpack it with gunzip"),
        (lambda text: bz2.compress(text.encode()), "bzip2"),
        (lambda text: lzma.compress(text.encode()), "xz"),
        (lambda text: zipped(text), "a zip archive; unpack it with unzip"),
        (lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (lambda text: b"<!DOCTYPE html>\n<html></html>", "a web page"),
        (lambda text: ("é" + text).encode("latin-1"), "other bytes"),
    ],
)
def test_a_file_of_another_format_is_named(path, pack, name):
    path.write_bytes(pack(json.dumps(PLAIN)))
    for read_file in (read_annotations, read_predictions, read_text):
        with pytest.raises(UserError) as error:
            read_file(path)
        assert str(error.value).startswith(f"{path}: must be UTF-8 text, got {name}")


def zipped(text):
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("rows.jsonl", text)
        return file.getvalue()


CAPTIONS = {
    "v_abc": {"duration": 20.5, "timestamps": [[2, 6], [18, 25]], "sentences": [" a dog runs ", "it stops"]},
    "v_def": {"duration": 9, "timestamps": [[1, 3]], "sentences": ["a cat"]},
}


@pytest.mark.parametrize("indent", [None, 2])
def test_the_layout_of_activitynet_captions_is_read(path, indent):
    path.write_text(json.dumps(CAPTIONS, indent=indent))
    annotations = read_annotations(path)
    assert [(record.qid, record.vid, record.query, record.duration) for record in annotations.records] == [
        ("v_abc_0", "v_abc", "a dog runs", 20.5),
        ("v_abc_1", "v_abc", "it stops", 20.5),
        ("v_def_0", "v_def", "a cat", 9),
    ]
    assert annotations.records[1].windows.tolist() == [[18, 20.5]]
    assert "sentence 1, qid 'v_abc_1'" in str(annotations.repairs)


def test_a_video_with_unequal_numbers_of_sentences_and_times_is_refused(path):
    path.write_text(json.dumps({"v": CAPTIONS["v_abc"] | {"sentences": ["one"]}, "w": {}}))
    with pytest.raises(UserError) as error:
        read_annotations(path)
    assert str(error.value) == (
        f"{path}:'v', sentence 1: qid 'v_1': 'query' must be a string, got null; 1 more row is refused ('w')"
    )


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_of_rows_is_read(path, indent):
    path.write_text(json.dumps([PLAIN, RATED | {"qid": 8}], indent=indent))
    assert [record.qid for record in read_annotations(path).records] == [7, 8]
    path.write_text(json.dumps([PLAIN, PLAIN], indent=indent))
    with pytest.raises(UserError, match=r"rows\.jsonl:entry 2: qid 7 is also on entry 1"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": 0}, "'duration' must be a positive number, got 0"),
        ({"duration": -1.5}, "'duration' must be a positive number, got -1.5"),
        ({"duration": "20"}, "'duration' must be a positive number, got \"20\""),
        ({"duration": True}, "'duration' must be a positive number, got true"),
        ({"duration": float("nan")}, "'duration' must be a positive number, got NaN"),
        ({"duration": float("inf")}, "'duration' must be a positive number, got Infinity"),
        ({"duration": 10**400}, "'duration' must be a positive number, got 1000"),
        ({"query": 3}, "'query' must be a string, got 3"),
        ({"query": "  "}, "'vid' or 'query' is empty"),
        ({"vid": None}, "'vid' must be a string, got null"),
        ({"relevant_windows": []}, "'relevant_windows' is empty"),
        ({"relevant_windows": [[1, 2], [3]]}, "'relevant_windows' must be a list of lists of 2 numbers"),
        ({"relevant_windows": [[1, 2, 3]]}, "'relevant_windows' must be"),
        ({"relevant_windows": [["1", "2"]]}, "'relevant_windows' must be"),
        ({"relevant_windows": [[1, None]]}, "'relevant_windows' must be"),
        ({"relevant_windows": [[10**400, 2]]}, "'relevant_windows' must be"),
        ({"relevant_windows": 5}, "'relevant_windows' must be"),
        ({"relevant_windows": {}}, "'relevant_windows' must be"),
        ({"relevant_windows": [[1, float("nan")]]}, "'relevant_windows' holds NaN or Inf"),
        ({"relevant_clip_ids": None}, "has only one of 'relevant_clip_ids' and 'saliency_scores'"),
        ({"relevant_clip_ids": [1]}, "1 'relevant_clip_ids' but 2 'saliency_scores'"),
        ({"relevant_clip_ids": [1, 1]}, "a clip occurs twice"),
        ({"relevant_clip_ids": [1, 10]}, "'relevant_clip_ids' must lie in 0..9, the clips of 20 s"),
        ({"relevant_clip_ids": [-1, 1]}, "'relevant_clip_ids' must lie in"),
        ({"relevant_clip_ids": [1, 1.5]}, "'relevant_clip_ids' holds a fraction"),
        ({"saliency_scores": [[1, 2, 3], [5, 0, 0]]}, "'saliency_scores' must lie in 0..4"),
        ({"saliency_scores": [[1, 2, 3], [0, -1, 0]]}, "'saliency_scores' must lie in 0..4"),
        ({"saliency_scores": [1, 2]}, "'saliency_scores' must be a list of lists of 3 numbers"),
    ],
)
def test_a_bad_field_is_refused_with_file_line_and_qid(path, change, message):
    with pytest.raises(UserError) as error:
        read(path, PLAIN | {"qid": 6}, RATED | change)
    assert str(error.value).startswith(f"{path}:2: qid 7: {message}")


@pytest.mark.parametrize("key", ["query", "vid", "duration"])
def test_a_missing_field_is_named(path, key):
    with pytest.raises(UserError, match=rf"rows\.jsonl:1: qid 7: '{key}' is missing"):
        read(path, {k: v for k, v in PLAIN.items() if k != key})


@pytest.mark.parametrize("qid", [None, 1.0, True, [1]])
def test_a_qid_that_is_neither_integer_nor_string_is_refused(path, qid):
    with pytest.raises(UserError, match=r"rows\.jsonl:1: 'qid' must be an integer or a string, got"):
        read(path, PLAIN | {"qid": qid})


def test_a_repeated_qid_is_refused(path):
    with pytest.raises(UserError, match=r"rows\.jsonl:3: qid 7 is also on line 1"):
        read(path, PLAIN, PLAIN | {"qid": 8}, PLAIN)


@pytest.mark.parametrize("line", ['{"qid": 1', "[1, 2]", "null", "qid", "[" * 100_000, "{} {}"])
def test_a_line_that_is_not_a_json_object_is_refused(path, line):
    path.write_text(f"{json.dumps(PLAIN)}\n{line}")
    with pytest.raises(UserError, match=r"rows\.jsonl:2: not a JSON object"):
        read_annotations(path)


def test_files_that_hold_no_rows_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\x89HDF\r\n\xff")
    for name, message in {
        "absent.jsonl": "cannot be read",
        ".": "cannot be read",
        "empty.jsonl": "no rows",
        "binary.jsonl": "must be UTF-8 text, got HDF5",
    }.items():
        with pytest.raises(UserError, match=message):
            read_annotations(tmp_path / name)


RANKED = {key: PLAIN[key] for key in ("qid", "query", "vid")} | {"domain": "BK", "relevant_windows": None}


@pytest.mark.parametrize("shape", [(4, 20), (4, 1, 20), (4, 20, 1)])
def test_ratings_of_tvsum_are_read_and_its_duration_in_clips_becomes_seconds(path, shape):
    ratings = np.arange(80) % 5 + 1.0
    annotations = read(path, RANKED | {"duration": 4, "label": ratings.reshape(shape).tolist()})
    (record,) = annotations.records
    assert record.clip_labels.tolist() == ratings.reshape(4, 20).tolist()
    assert (record.domain, record.windows, record.is_labelled) == ("BK", None, True)
    assert record.duration == 8
    assert annotations.repairs.counts == {"durations in clips of 2 s turned into seconds": 1}
    assert label_saliency(record.clip_labels) == pytest.approx((ratings.reshape(4, 20).mean(axis=1) - 1) / 4)
    in_seconds = read(path, RANKED | {"duration": 7.9, "label": ratings.reshape(shape).tolist()})
    assert (in_seconds.records[0].duration, bool(in_seconds.repairs)) == (7.9, False)


@pytest.mark.parametrize("label", [[0, 1, 0], [[0], [1], [0]], [[0.0], [1.0], [0.0]]])
def test_labels_of_one_rater_are_read(path, label):
    (record,) = read(path, RANKED | {"duration": 6.3, "label": label}).records
    assert (record.clip_labels.tolist(), record.duration) == ([[0], [1], [0]], 6.3)
    assert label_saliency(record.clip_labels).tolist() == [0, 1, 0]
    assert clips_of(record, 2.0) == clips_of(record, 2.0, stored=4) == 3
    assert clips_of(record, 1.0, stored=6) == 6.3


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([], "'label' must be a list of numbers, or of lists of equally many numbers"),
        ([[1, 2], [3]], "'label' must be a list"),
        ([[[1, 2], [3, 4]], [[1, 2], [3, 4]]], "'label' must be a list"),
        (["1"], "'label' must be a list"),
        ([float("nan")], "'label' holds NaN or Inf"),
        ([[35], [60]], "'label' of one rater must be 0 or 1, got 60"),
    ],
)
def test_bad_labels_are_refused(path, label, message):
    with pytest.raises(UserError, match=message):
        read(path, RANKED | {"duration": 6, "label": label})


@needs_shared
@pytest.mark.parametrize(
    ("file", "num_rows", "num_windows"),
    [
        ("qvhighlights/highlight_val_release.jsonl", 1550, 2803),
        ("qvhighlights/highlight_test_with_gt.jsonl", 1542, 2761),
        ("charades/charades_test_release.jsonl", 3720, 3720),
        ("tacos/test.jsonl", 4001, 4001),
    ],
)
def test_released_files_need_no_repair(file, num_rows, num_windows):
    annotations = read_annotations(SHARED / "annotations" / file)
    assert not annotations.repairs
    assert len(annotations.records) == num_rows
    assert sum(len(record.windows) for record in annotations.records) == num_windows
    for record in annotations.records:
        assert record.query == record.query.strip()
        assert isinstance(record.qid, str if file.startswith("tacos") else int)
        assert (record.clip_scores is not None) == file.startswith("qvhighlights")
        if record.clip_scores is not None:
            # The rated clips are exactly those inside the windows, so nothing is rated outside.
            starts = 2 * np.flatnonzero(record.clip_scores.any(axis=1))[:, None]
            inside = (record.windows[:, 0] <= starts) & (starts + 2 <= record.windows[:, 1])
            assert inside.any(axis=1).all()
