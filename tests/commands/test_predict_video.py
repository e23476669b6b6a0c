"""``sdst predict --video``: what it prints and writes, what it refuses and when."""

import json
import shutil
import sys

import h5py
import numpy as np
import pytest

from helpers.shared_data import needs_shared
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.features.backbone import backbone
from sdst.inference import grounder
from sdst.plotting.predictions import plot_predictions

pytestmark = needs_shared


@pytest.fixture
def ask(video_run, capsys):
    """Runs the command on videos and returns (status, stdout, stderr)."""
    from helpers.video_run import BACKBONE, BACKBONE_CONFIG

    def run(*options, videos=("b",), queries=("dog jumps",), without=()):
        given = {
            "--checkpoint": [video_run.checkpoint],
            "--video": [video_run.video(video) if isinstance(video, str) else video for video in videos],
            "--backbone-checkpoint": [BACKBONE],
            "--backbone-config": [BACKBONE_CONFIG],
            "--vocab": [video_run.vocab],
        }
        arguments = [
            part for name, values in given.items() if name not in without for part in (name, *values)
        ]
        arguments += [part for query in queries for part in ("--query", query)]
        capsys.readouterr()
        status = main(["predict", *map(str, (*arguments, *options))])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def no_loading(monkeypatch):
    """Fails the test when the backbone is loaded."""

    def load(*args, **kwargs):
        raise AssertionError("the backbone was loaded")

    monkeypatch.setattr(backbone, "load_backbone", load)
    monkeypatch.setattr(grounder, "load_backbone", load)


def test_video_files_and_stored_features_give_the_same_predictions(ask, video_run, tmp_path, capsys):
    status, out, err = ask(videos=("b", "a"), queries=video_run.queries("b"))
    assert (status, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["qid"], row["vid"], row["query"]) for row in rows] == [
        (qid, "ba"[qid // 3], video_run.queries("b")[qid % 3]) for qid in range(6)
    ]
    assert set(rows[0]) == {"qid", "vid", "query", "pred_relevant_windows", "pred_saliency_scores"}
    assert [len(row["pred_saliency_scores"]) for row in rows] == [6] * 3 + [4] * 3

    stored = ["--features", video_run.features, "--annotations", video_run.folder / "train.jsonl"]
    assert main(["predict", "--checkpoint", str(video_run.checkpoint), *map(str, stored)]) == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_pair = {(row["vid"], row["query"]): row for row in expected}
    for row in rows:
        for key in ("pred_relevant_windows", "pred_saliency_scores"):
            theirs = by_pair[row["vid"], row["query"]][key]
            np.testing.assert_allclose(row[key], theirs, rtol=0, atol=1e-6)


def test_new_queries_about_a_stored_video_match_its_file_and_stored_queries(ask, video_run, capsys):
    queries = video_run.queries("b")
    _, of_file, _ = ask(queries=queries)
    stored = ["--features", video_run.features, "--vid", "b"]
    status, out, err = ask(*stored, without=("--video",), queries=queries)
    assert (status, err) == (0, "")
    qids = [f"--qid={row['qid']}" for row in video_run.rows if row["vid"] == "b"]
    assert main(["predict", "--checkpoint", *map(str, [video_run.checkpoint, *stored, *qids])]) == 0
    of_qids = capsys.readouterr().out

    ours, as_file, as_stored = (
        [json.loads(line) for line in text.splitlines()] for text in (out, of_file, of_qids)
    )
    for key in ("qid", "vid", "query"):
        assert [row[key] for row in ours] == [row[key] for row in as_file]
    for theirs in (as_file, as_stored):
        for row, other in zip(ours, theirs, strict=True):
            for key in ("pred_relevant_windows", "pred_saliency_scores"):
                np.testing.assert_allclose(row[key], other[key], rtol=0, atol=1e-6)


def test_answers_about_a_stored_video_can_be_plotted_and_tabulated(ask, video_run, tmp_path):
    pytest.importorskip("matplotlib")
    stored = ["--features", video_run.features, "--vid", "b"]
    status, out, _ = ask(*stored, "--plot", tmp_path / "p.png", "--table", without=("--video",))
    assert (status, "dog jumps" in out) == (0, True)
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_stored_video_may_have_any_name(ask, video_run, tmp_path):
    renamed = tmp_path / "f.h5"
    shutil.copy(video_run.features, renamed)
    with h5py.File(renamed, "r+") as file:
        file.move("video/adaptive/b", "video/adaptive/b_60.0_210.0")
    options = ["--features", renamed, "--vid", "b_60.0_210.0"]
    status, out, _ = ask(*options, without=("--video",))
    assert (status, json.loads(out)["vid"]) == (0, "b_60.0_210.0")


def test_a_video_that_is_not_stored_is_refused_before_the_backbone_loads(ask, video_run, no_loading):
    status, out, err = ask("--features", video_run.features, "--vid", "absent", without=("--video",))
    assert (status, out) == (2, "")
    assert "(absent)" in err
    assert err.count("\n") == 1


def test_out_writes_a_prediction_file_and_stdout_stays_silent(ask, tmp_path):
    status, out, _ = ask("--out", tmp_path / "p.jsonl", queries=["dog", "cat"])
    assert (status, out) == (0, "")
    assert [prediction.query for prediction in read_predictions(tmp_path / "p.jsonl")] == ["dog", "cat"]


def test_the_table_shows_the_best_moments_and_the_exact_query(ask):
    status, out, _ = ask("--table", queries=["[red] dog"])
    assert status == 0
    assert "[red] dog" in out
    _, jsonl, _ = ask(queries=["[red] dog"])
    start, end, score = json.loads(jsonl)["pred_relevant_windows"][0]
    (line,) = [line for line in out.splitlines() if "[red] dog" in line]
    assert [f"0:{start:04.1f}", f"0:{end:04.1f}", f"{score:.2f}"] == line.replace("│", " ").split()[-3:]
    assert out.count("0:") == 6  # three moments


def test_moments_are_cut_out_and_stay_in_their_folder(ask, tmp_path):
    from sdst.features.video import ClipSpec, VideoReader

    folder = tmp_path / "new" / "cuts"
    status, out, err = ask("--clips", folder, "--clips-per-query", 2, queries=["../../dog", "cat"])
    assert (status, err) == (0, "")
    names = sorted(path.name for path in folder.iterdir())
    assert [name[:10] for name in names] == ["000_b_dog_", "000_b_dog_", "001_b_cat_", "001_b_cat_"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    start, end, _ = json.loads(out.splitlines()[0])["pred_relevant_windows"][0]
    reader = VideoReader(folder / f"000_b_dog_1_{start:.1f}-{end:.1f}s.mp4", ClipSpec())
    list(reader)  # every frame decodes
    assert reader.duration == pytest.approx(end - start, abs=0.1)


def test_a_plot_with_thumbnails_is_written(ask, tmp_path):
    pytest.importorskip("matplotlib")
    status, out, _ = ask("--plot", tmp_path / "p.png", videos=("a", "c"), queries=["dog", "cat"])
    assert (status, len(out.splitlines())) == (0, 4)
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_thumbnails_are_drawn_at_their_times(ask, tmp_path, monkeypatch):
    figure_module = pytest.importorskip("matplotlib.figure")
    from matplotlib.offsetbox import AnnotationBbox

    figures = []
    monkeypatch.setattr(figure_module.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    ask("--plot", tmp_path / "p.png", videos=("a", "b"))
    for axes, seconds in zip(figures[0].axes, (8.0, 12.0), strict=True):
        boxes = [artist for artist in axes.artists if isinstance(artist, AnnotationBbox)]
        times = [box.xy[0] for box in boxes]
        assert len(times) > 3
        np.testing.assert_allclose(times, (np.arange(len(times)) + 0.5) * seconds / len(times))
        assert all(axes.get_ylim()[0] < box.xy[1] < -0.72 for box in boxes)  # under the moments


def test_the_plot_of_stored_features_has_no_thumbnails(video_run, tmp_path):
    pytest.importorskip("matplotlib")
    stored = ["--features", video_run.features, "--annotations", video_run.folder / "val.jsonl"]
    plot = ["--plot", tmp_path / "p.png", "--out", tmp_path / "p.jsonl"]
    assert main(["predict", "--checkpoint", *map(str, (video_run.checkpoint, *stored, *plot))]) == 0
    predictions = read_predictions(tmp_path / "p.jsonl")
    records = read_annotations(video_run.folder / "val.jsonl").records
    plot_predictions(predictions, records, tmp_path / "same.png", 2.0)
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "same.png").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is not a file"), (b"", "is empty"), (b"no video at all", "cannot be opened")],
)
def test_a_bad_video_is_refused_before_the_backbone_loads(ask, tmp_path, no_loading, content, message):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    status, out, err = ask("--clips", tmp_path / "cuts", videos=("b", path))
    assert (status, out) == (2, "")
    assert f"bad.mp4: {message}" in err
    assert err.count("\n") == 1


def test_a_damaged_video_does_not_stop_the_others(ask, video_run, tmp_path):
    damaged = tmp_path / "damaged.mov"
    shutil.copy(video_run.video("b"), damaged)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 4 : len(content) * 3 // 4] = bytes(len(content) // 2)  # the index is at the end
    damaged.write_bytes(content)
    status, out, err = ask(videos=(damaged, "a"))
    assert status == 2
    assert [(json.loads(line)["qid"], json.loads(line)["vid"]) for line in out.splitlines()] == [(0, "a")]
    assert err.startswith("sdst: error: ")
    assert "damaged.mov: " in err
    assert err.count("\n") == 1
    status, out, err = ask("--out", tmp_path / "p.jsonl", videos=(damaged,))
    assert (status, out) == (2, "")
    assert not (tmp_path / "p.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "without", "message"),
    [
        (["--features", "f.h5"], (), "--features selects stored features"),
        (["--vid", "a"], (), "--vid selects stored features"),
        ([], ("--vocab",), "--backbone-checkpoint and --vocab go together"),
        ([], ("--backbone-checkpoint",), "--backbone-checkpoint and --vocab go together"),
        (["--query", "  "], (), "--query is empty"),
        (["--clips-per-query", "0"], (), "--clips-per-query"),
        ([], ("--video",), "give --video with video files, or --features"),
        (["--features", "f.h5"], ("--video",), "--query needs --video, or --features with --vid"),
        (["--features", "f.h5", "--vid", "a", "--qid", "1"], ("--video",), "drop it or --query"),
        (["--features", "f.h5", "--annotations", "a"], ("--video",), "drop it or --query"),
        (["--features", "f.h5", "--clips", "cuts"], ("--video",), "--clips needs --video"),
        (["--features", "f.h5", "--vid", "a", "--query", ""], ("--video",), "--query is empty"),
        (["--features", "f.h5", "--vid", "a"], ("--video", "--vocab"), "--vocab go together"),
        (["--plot", "absent/p.png"], (), "absent/p.png: its folder does not exist"),
    ],
)
def test_incompatible_options_are_refused_before_loading(ask, no_loading, options, without, message):
    status, out, err = ask(*options, without=without)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_backbone_that_does_not_come_with_the_package_must_be_given(ask):
    status, out, err = ask(without=("--backbone-checkpoint", "--vocab"))
    assert (status, out) == (2, "")
    assert "do not come with the package; give --backbone-checkpoint and --vocab" in err
    assert err.count("\n") == 1


def test_a_clips_path_that_is_a_file_is_refused(ask, no_loading, tmp_path):
    (tmp_path / "cuts").write_text("mine")
    status, _, err = ask("--clips", tmp_path / "cuts")
    assert status == 2
    assert "cuts: cannot create this folder" in err


def test_progress_shows_only_in_a_terminal(ask, monkeypatch, tmp_path):
    _, out, err = ask()
    assert err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, same, err = ask("--clips", tmp_path)
    assert same == out
    assert "loading the backbone" in err
    assert "6/6" in err  # clips
    assert "cutting" in err
