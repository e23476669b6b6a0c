"""``sdst predict`` with stored features: what it selects, writes and refuses, and that batches do not matter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.corpus import Corpus, make_corpus, make_rows, write_rows
from sdst.cli import main
from sdst.config.schema import Decoding
from sdst.features import simulate
from sdst.inference import stored
from sdst.training.run_folder import BEST
from sdst.types import Batch, Output, Prediction

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def predict(finished: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]):
    """Runs the command on the finished run's best checkpoint and returns the printed rows."""

    def run(*arguments: str, features: Path = corpus.features) -> list[dict[str, Any]]:
        capsys.readouterr()
        options = ["--checkpoint", str(finished / BEST), "--features", str(features)]
        assert main(["predict", *options, *arguments]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_close(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Equal up to rounding, because batches of other sizes add in another order."""
    assert [row["qid"] for row in ours] == [row["qid"] for row in theirs]
    for left, right in zip(ours, theirs, strict=True):
        for key in ("pred_relevant_windows", "pred_saliency_scores"):
            np.testing.assert_allclose(left[key], right[key], rtol=1e-4, atol=1e-5)


def test_a_whole_split_in_file_order_equals_the_runs_submission(
    predict: Any, finished: Path, corpus: Corpus
) -> None:
    rows = predict("--annotations", str(corpus.paths["val"]))
    annotated = rows_of(corpus.paths["val"])
    for key in ("qid", "vid", "query"):
        assert [row[key] for row in rows] == [row[key] for row in annotated]
    assert_close(rows, sorted(rows_of(finished / "val_submission.jsonl"), key=lambda row: row["qid"]))


def test_batch_size_does_not_change_predictions(predict: Any, corpus: Corpus) -> None:
    annotations = ["--annotations", str(corpus.paths["train"])]
    assert_close(predict(*annotations, "--batch-size", "1"), predict(*annotations, "--batch-size", "8"))


def test_the_model_runs_on_the_given_device(
    predict: Any, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = set()

    def note(output: Output, batch: Batch, decoding: Decoding) -> list[Prediction]:
        devices.update({output.saliency.device.type, batch.video.device.type})
        return [Prediction(r.qid, r.vid, r.query, np.array([[0.0, 1.0, 0.5]])) for r in batch.records]

    monkeypatch.setattr(stored, "decode", note)
    # "meta" is the only device besides the CPU that every machine has; its tensors have no values.
    assert predict("--annotations", str(corpus.paths["val"]), "--device", "meta")
    assert devices == {"meta"}


def test_predictions_are_sorted_inside_their_video_with_a_score_per_clip(
    predict: Any, corpus: Corpus
) -> None:
    annotations = corpus.paths["test"]
    for row, annotated in zip(predict("--annotations", str(annotations)), rows_of(annotations), strict=True):
        starts, ends, scores = np.array(row["pred_relevant_windows"]).T
        assert (np.diff(scores) <= 0).all()
        assert (starts >= 0).all()
        assert (starts < ends).all()
        assert (ends <= annotated["duration"]).all()
        assert len(row["pred_saliency_scores"]) == annotated["duration"] / 2


def test_one_query_with_or_without_annotations_equals_its_row_of_the_split(
    predict: Any, corpus: Corpus
) -> None:
    rows = predict("--annotations", str(corpus.paths["val"]))
    wanted, other = rows[2], rows[0]
    qid, vid = str(wanted["qid"]), wanted["vid"]
    annotations = ["--annotations", str(corpus.paths["val"])]
    assert_close(predict(*annotations, "--qid", qid, "--qid", str(other["qid"])), [wanted, other])
    (bare,) = predict("--vid", vid, "--qid", qid)
    assert (bare["qid"], bare["vid"]) == (qid, vid)
    assert_close([bare | {"qid": wanted["qid"]}], [wanted])
    of_video = [row for row in rows if row["vid"] == vid]
    assert len(of_video) == 2
    assert_close(predict(*annotations, "--vid", vid), of_video)


def test_out_writes_a_file_that_evaluate_accepts_and_prints_nothing(
    predict: Any, corpus: Corpus, tmp_path: Path
) -> None:
    annotations, out = str(corpus.paths["val"]), tmp_path / "p.jsonl"
    assert predict("--annotations", annotations, "--out", str(out)) == []
    assert main(["evaluate", str(out), annotations, "--json"]) == 0


@pytest.mark.parametrize("labelled", [True, False])
def test_plot_writes_a_picture(predict: Any, corpus: Corpus, tmp_path: Path, labelled: bool) -> None:
    row = rows_of(corpus.paths["val"])[0]
    query = ["--qid", str(row["qid"]), "--vid", row["vid"]]
    if labelled:
        query += ["--annotations", str(corpus.paths["val"])]
    assert len(predict(*query, "--plot", str(tmp_path / "p.png"))) == 1
    written = (tmp_path / "p.png").read_bytes()
    assert written.startswith(PNG_MAGIC)
    assert len(written) > 5000


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["predict", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("made_with", "named"),
    [
        ({"video_dim": 24}, "video_dim must be 16 as in the features of the training, got 24"),
        ({"text_dim": 24}, "text_dim must be 16 as in the features of the training, got 24"),
        ({"clip_seconds": 1.0}, "clip_seconds must be 2.0 as in the features of the training, got 1"),
        ({"levels": 1}, "video_layers"),
    ],
)
def test_features_unlike_the_training_features_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], made_with: dict, named: str
) -> None:
    other = make_corpus(tmp_path, {"val": make_rows("val", 3)}, **made_with)
    options = ["--checkpoint", finished / BEST, "--features", other.features]
    line = refusal(capsys, *options, "--annotations", other.paths["val"])
    assert str(other.features) in line
    assert named in line


def test_features_of_another_backbone_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "BACKBONE", "other-net")
    other = make_corpus(tmp_path, {"val": make_rows("val", 3)})
    options = ["--checkpoint", finished / BEST, "--features", other.features]
    assert "got other-net" in refusal(capsys, *options, "--annotations", other.paths["val"])


def test_unknown_names_and_bad_options_are_refused(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", finished / BEST, "--features", corpus.features]
    annotations = corpus.paths["val"]
    row = rows_of(annotations)[0]
    assert "--annotations" in refusal(capsys, *options)
    assert "--annotations" in refusal(capsys, *options, "--vid", row["vid"])
    assert "no-video" in refusal(capsys, *options, "--vid", "no-video", "--qid", row["qid"])
    assert "no-query" in refusal(capsys, *options, "--vid", row["vid"], "--qid", "no-query")
    assert "no qid 99" in refusal(capsys, *options, "--annotations", annotations, "--qid", 99)
    assert "no-video" in refusal(capsys, *options, "--annotations", annotations, "--vid", "no-video")
    assert "--batch-size" in refusal(capsys, *options, "--annotations", annotations, "--batch-size", 0)
    with_vid = ["--vid", row["vid"], "--qid", row["qid"]]
    assert "--vocab needs --video or --query" in refusal(capsys, *options, *with_vid, "--vocab", "v.txt")
    assert "device nonsense" in refusal(
        capsys, *options, "--annotations", annotations, "--device", "nonsense"
    )
    strange = write_rows(tmp_path / "a.jsonl", [row | {"vid": "no-features"}])
    assert "no-features" in refusal(capsys, *options, "--annotations", strange)
    assert "nowhere" in refusal(
        capsys, *options, "--annotations", annotations, "--plot", tmp_path / "nowhere/p.png"
    )


def test_a_long_split_plots_its_first_queries_and_says_so(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = write_rows(tmp_path / "a.jsonl", [row for path in corpus.paths.values() for row in rows_of(path)])
    options = ["--checkpoint", str(finished / BEST), "--features", str(corpus.features)]
    plot = str(tmp_path / "p.png")
    assert main(["predict", *options, "--annotations", str(long), "--plot", plot]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 19
    assert "first 12 of 19" in captured.err


def test_simulated_features_cannot_answer_new_queries(
    finished: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    vid = rows_of(corpus.paths["val"])[0]["vid"]
    options = ["--checkpoint", finished / BEST, "--features", corpus.features, "--vid", vid]
    line = refusal(capsys, *options, "--query", "a dog jumps")
    assert "was trained on simulated features, which no backbone can make" in line
