"""Ids and queries of strangers never act as a path, a formula, a command or a terminal code."""

import json
import shutil
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.corpus import Corpus, make_rows, write_rows
from helpers.one_line import one_line
from sdst.cli import main
from sdst.console.terminal import printable
from sdst.data.jsonlines import read_rows
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.selection import find_videos
from sdst.features.writer import FeatureWriter
from sdst.plotting.predictions import plot_predictions
from sdst.training.run_folder import BEST
from sdst.types import Prediction, Record

PATH_LIKE = ["../outside", "/etc/passwd", "a/b", "..", ".", "", "a\0b"]
"""Names that would lead to another folder or file if used as paths."""
ODD = [
    "x" * 300,
    "👩‍🚀🎬",
    "‮gpj.cod",
    "\x1b[2J\x07",
    "$(touch ran)",
    "`touch ran`",
    "; touch ran",
    "$\\frac{$",
    "{vid}",
]
ODD += ["-rf", "%s%n", "a\nb", "[red]x"]
"""Names that are harmless as long as they stay text."""


def write_video(writer: FeatureWriter, name: str) -> None:
    writer.write_video("avg", name, np.ones((2, 1, 3)))


def make_writer(path: Path) -> FeatureWriter:
    return FeatureWriter(path, backbone="b", video_layers=[1], text_layers=[1], clip_seconds=2.0)


@pytest.mark.parametrize("name", PATH_LIKE)
def test_no_name_leads_out_of_the_feature_file(tmp_path: Path, name: str) -> None:
    with make_writer(tmp_path / "f.h5") as writer:
        with pytest.raises(UserError, match="cannot name features"):
            write_video(writer, name)
        with pytest.raises(UserError, match="cannot name features"):
            writer.write_text(name, np.ones((2, 1, 3)))


def test_odd_names_are_stored_unchanged_in_the_feature_file(tmp_path: Path) -> None:
    with make_writer(tmp_path / "f.h5") as writer:
        for name in ODD:
            write_video(writer, name)
            writer.write_text(name, np.ones((2, 1, 3)))
        writer.finish()
    store = FeatureStore(tmp_path / "f.h5", pooling="avg")
    assert sorted(store.vids()) == sorted(store.qids()) == sorted(ODD)


@pytest.mark.parametrize("name", PATH_LIKE + ODD)
def test_extraction_looks_for_videos_only_in_its_folder(tmp_path: Path, name: str) -> None:
    videos = tmp_path / "videos"
    (videos / "a").mkdir(parents=True)
    for path in (tmp_path / "outside.mp4", videos / "a/b.mp4"):
        path.touch()
    found, failures = find_videos(videos, [name])
    assert (found, list(failures)) == ({}, [name])


@pytest.mark.parametrize("pattern", ["{vid}", "{vid}/f", "f{vid}"])
@pytest.mark.parametrize("name", ODD)
def test_import_looks_for_arrays_only_in_its_folder(
    tmp_path: Path, pattern: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "arrays"
    (folder / "a").mkdir(parents=True)
    for path in (tmp_path / "outside", tmp_path / "outside/f", tmp_path / "f", folder / "a/b"):
        path.parent.mkdir(exist_ok=True)
        np.save(path.with_suffix(".npy"), np.ones((4, 3)))
    rows = [make_rows("val", 1)[0] | {"qid": name, "vid": name}]
    annotations = write_rows(tmp_path / "a.jsonl", rows)
    arguments = ["--annotations", annotations, "--videos", folder, "--queries", folder, "--backbone", "b"]
    arguments += ["--video-name", pattern, "--out", tmp_path / "f.h5"]
    assert main(["features", "import", *map(str, arguments)]) == 2
    printed = capsys.readouterr().err
    assert "has no file for any vid" in printed


@pytest.mark.parametrize("field", ["vid", "qid"])
@pytest.mark.parametrize("name", PATH_LIKE[:5] + PATH_LIKE[6:])
@pytest.mark.parametrize("command", ["extract", "import", "simulate"])
def test_a_name_that_cannot_be_stored_is_refused_before_work_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, field: str, name: str
) -> None:
    rows = make_rows("val", 2)
    rows[1][field] = name
    annotations = write_rows(tmp_path / "a.jsonl", rows)
    files = {"--out": tmp_path / "f.h5"}
    if command != "simulate":
        files |= {"--annotations": annotations, "--videos": tmp_path}
    if command == "import":
        files |= {"--queries": tmp_path, "--backbone": "b"}
    options = [str(part) for pair in files.items() for part in pair]
    start = {
        "extract": ["extract", "--config", "small-world"],
        "import": ["features", "import"],
        "simulate": ["features", "simulate", str(annotations)],
    }
    line = one_line(capsys, [*start[command], *options])
    assert f"{annotations}: {field} " in line
    assert "cannot name features; use names without '/'" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("field", ["vid", "query", "qid"])
def test_half_a_character_is_refused_when_it_is_read(tmp_path: Path, field: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"qid": 1, "vid": "v", "query": "q"} | {field: "a\ud800"}))
    with pytest.raises(UserError, match=field):
        read_rows(path, lambda row: (row.text("vid"), row.text("query")))


@pytest.mark.parametrize("name", PATH_LIKE[1:] + ODD)
def test_a_plot_draws_any_text_unchanged(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    prediction = Prediction(1, name, f"{name} {name}", np.array([[0, 2, 0.5]]), np.zeros(2))
    record = Record(1, name, name, 4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that the font lacks
        plot_predictions([prediction], [record], tmp_path / "p.png", 2.0)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_terminal_codes_are_printed_as_escapes(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in corpus.paths["val"].read_text().splitlines()]
    for row, name in zip(rows, ["\x1b[2J\u202egpj", "a\r\x08", "[red]x"], strict=False):
        row["query"] = name
    path = write_rows(tmp_path / "v.jsonl", rows)
    features = Path(shutil.copy(corpus.features, tmp_path / "f.h5"))
    with h5py.File(features, "r+") as file:
        del file["query_hashes"]  # which would notice the other queries
    options = ["--checkpoint", str(finished / BEST), "--features", str(features), "--annotations"]
    assert main(["predict", *options, str(path), "--table"]) == 0
    assert not set(capsys.readouterr().out) & set("\x1b\u202e\r\x08")
    rows[0]["vid"] = "\x1b[2Jv\u202e"
    assert main(["predict", *options, str(write_rows(path, rows))]) == 2
    error = capsys.readouterr().err
    assert "\\x1b[2Jv\\u202e" in error
    assert all(line.isprintable() for line in error.splitlines())


def test_printable_text_is_unchanged() -> None:
    assert printable("Ein Hund läuft 🎬 [1] $5") == "Ein Hund läuft 🎬 [1] $5"
