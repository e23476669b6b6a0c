"""``sdst data check``: what is there, what was released, what is missing, and the command that mends it."""

import hashlib
import json
from pathlib import Path

import pytest

from sdst.cli import main
from sdst.data import released
from sdst.data.annotations import read_annotations
from sdst.features.simulate import write_simulated

QUERIES = {
    "highlight_train_release.jsonl": 4,
    "highlight_val_release.jsonl": 2,
    "highlight_test_with_gt.jsonl": 2,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "qvhighlights"
    folder.mkdir(parents=True)
    qid = 0
    for name, count in QUERIES.items():
        rows = []
        for _ in range(count):
            row = {
                "qid": qid,
                "vid": f"{name[10]}{qid // 2}",
                "duration": 20,
                "query": "a red disc moves left",
            }
            rows.append(json.dumps(row | {"relevant_windows": [[2, 8]]}))
            qid += 1
        (folder / name).write_text("\n".join(rows))
    return folder


def write_features(
    place: Path, *left_out: int, out: str = "qvhighlights.h5", clip_seconds: float = 2.0
) -> Path:
    records = [record for name in QUERIES for record in read_annotations(place / name).records]
    path = place.parent / "features" / out
    kept = [record for record in records if record.qid not in left_out]
    write_simulated(kept, path, video_dim=8, text_dim=8, levels=5, clip_seconds=clip_seconds)
    return path


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["data", "check", *arguments])
    return status, capsys.readouterr().out


def test_complete_data_is_ready(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_features(place)
    status, text = check(capsys, "data/qvhighlights")
    assert status == 0, text
    assert text.splitlines()[-1] == "ready"
    digest = hashlib.sha256((place / "highlight_train_release.jsonl").read_bytes()).hexdigest()[:12]
    assert f"4 queries on 2 videos (7218 on 7100 were released), sha256 {digest}" in text
    assert "features of 2 videos and 4 queries" in text
    assert "SIMULATED" in text
    assert "layers 36, 37, 38, 39, 40" in text
    assert check(capsys, "qvhighlights")[1] == text.replace(str(place.parent.parent) + "/", "")


def test_a_folder_elsewhere_needs_no_option(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(place)
    elsewhere = place.parent.parent / "my disk, no. 2"
    place.parent.rename(elsewhere)
    monkeypatch.chdir("/")
    assert check(capsys, str(elsewhere / "qvhighlights"))[0] == 0


def test_missing_queries_are_counted_and_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_features(place, 1, 4, 5)
    status, text = check(capsys, "data/qvhighlights", "--json")
    found = json.loads(text)
    assert status == 3
    assert [row["coverage"]["missing_qids"] for row in found["splits"]] == [["1"], ["4", "5"], []]
    assert [row["coverage"]["missing_vids"] for row in found["splits"]] == [[], ["v2"], []]
    assert len(found["problems"]) == 3
    assert any("lacks 2 of 2 queries of val (4, 5)" in line for line in found["problems"])


def test_released_queries_that_the_published_features_lack_are_known(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(released.ABSENT, "qvhighlights", {"train": ("1",)})
    write_features(place, 1)
    assert "the published 6B features lack them too" in check(capsys, "data/qvhighlights")[1]


def test_files_under_other_names_are_found(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = place / "highlight_val_release.jsonl"
    known = released.Released(2, 1, hashlib.sha256(expected.read_bytes()).hexdigest()[:12])
    monkeypatch.setitem(released.RELEASED["qvhighlights"], "val", known)
    (place / "deeper").mkdir()
    expected.rename(place / "deeper" / "qvhighlights val.jsonl")
    features = write_features_of_all(place)
    status, text = check(capsys, "data/qvhighlights")
    assert status == 3
    assert (
        "mv 'data/qvhighlights/deeper/qvhighlights val.jsonl' data/qvhighlights/highlight_val_release.jsonl"
        in text
    )
    assert f"{features.relative_to(place.parent.parent)} has features of these videos" in text


def write_features_of_all(place: Path) -> Path:
    """Features of the files that are there, under another name than configured."""
    records = [record for path in place.glob("*.jsonl") for record in read_annotations(path).records]
    write_simulated(records, place.parent / "features" / "other.h5", video_dim=8, text_dim=8)
    return place.parent / "features" / "other.h5"


def test_nothing_there_names_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = check(capsys, "charades")
    assert status == 3
    assert "put the released train file (12404 rows) there" in text
    assert (
        "sdst features import --from FOLDER --annotations data/charades/charades_train_release.jsonl" in text
    )


def test_features_of_another_clip_length_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_features(place, clip_seconds=1.0)
    status, text = check(capsys, "data/qvhighlights")
    assert status == 3
    assert "its clips are 1 s long, those of qvhighlights are 2 s" in text


def test_unfinished_features_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place.parent / "features").mkdir()
    (place.parent / "features" / "qvhighlights.h5.partial").touch()
    assert "unfinished" in check(capsys, "data/qvhighlights")[1]


def test_an_unknown_data_set_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "data/qvhilights"]) == 2
    assert "must be a data set or its folder, one of" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vid_feats", "deeper/features.tar.gz"])
def test_downloads_are_recognised(place: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    download = place / name
    download.parent.mkdir(exist_ok=True)
    download.mkdir() if name == "vid_feats" else download.touch()
    text = check(capsys, "data/qvhighlights")[1]
    shown = f"data/qvhighlights/{name}"
    assert f"{shown} looks like published features: sdst features import --from {Path(shown).parent} " in text


def test_longer_and_shorter_videos_are_told_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_features(place)
    for name, duration in (("highlight_train_release.jsonl", 14), ("highlight_val_release.jsonl", 40)):
        rows = [json.loads(line) | {"duration": duration} for line in (place / name).read_text().splitlines()]
        (place / name).write_text("\n".join(map(json.dumps, rows)))
    status, text = check(capsys, "data/qvhighlights")
    assert status == 3
    assert (
        "note: data/features/qvhighlights.h5: 2 videos of train are longer than annotated (t0, t1); a run cuts"
        in text
    )
    assert "to mend: data/features/qvhighlights.h5: 1 videos of val are more than a clip shorter" in text
    text = check(capsys, "data/qvhighlights", "data.longer=refuse")[1]
    assert "to mend: data/features/qvhighlights.h5: 2 videos of train are longer than annotated" in text


def test_missing_rows_that_a_run_leaves_out_are_a_note(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_features(place, 1)
    status, text = check(capsys, "data/qvhighlights", "data.missing=leave_out")
    assert status == 0
    assert (
        "note: data/features/qvhighlights.h5: lacks 1 of 4 queries of train (1); a run leaves their rows out"
        in text
    )
