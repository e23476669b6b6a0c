"""Data sets beside the paper's, in the layout of their released files: train, evaluate, report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.corpus import TINY, make_corpus, make_rows
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.features.simulate import write_simulated
from sdst.types import Record

DOMAINS = ("BK", "BT")


def labelled_rows(split: str, raters: int) -> list[dict[str, Any]]:
    """Rows in the layout of QD-DETR and Lighthouse.

    TVSum has 20 raters, and its ``duration`` counts clips of 2 s. The labels of YouTube Highlights are 50 frames apart.
    """
    rng = np.random.default_rng(len(split))
    rows = []
    for number in range(8):
        num_clips = 6 + number % 3
        shape = (num_clips, raters)
        frames = {"frames": 50.0 * num_clips, "fps": 29.97, "clip": [[0.0, 100.0]], "match": [-1] * num_clips}
        rows.append(
            {
                **(frames if raters == 1 else {}),
                "qid": f"{split}{number}",
                "vid": f"{split}{number}",
                "query": ("bee keeping", "making a sandwich")[number % 2],
                "duration": num_clips if raters > 1 else num_clips * 50 / 29.97 + 1.5,
                "relevant_clip_ids": None,
                "relevant_windows": None,
                "domain": DOMAINS[number % 2],
                "label": rng.integers(1, 6, shape).tolist()
                if raters > 1
                else rng.integers(0, 2, shape).tolist(),
            }
        )
    return rows


def train_and_evaluate(
    overrides: list[str], folder: Path, truth: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """Train for an epoch; return metrics.json and what ``sdst evaluate`` says about the submission."""
    run = folder / "run"
    assert main(["train", *overrides, "trainer.max_epochs=1", f"run_dir={run}"]) == 0
    result = json.loads((run / "metrics.json").read_text())
    split = result["selected"]["split"]
    capsys.readouterr()
    files = [str(run / f"{split}_submission.jsonl"), str(truth)]
    assert main(["evaluate", *files, "--dataset", result["dataset"], "--json", *options]) == 0
    brief: dict[str, float] = json.loads(capsys.readouterr().out)["brief"]
    assert brief == result["best"][split]
    assert main(["report", str(folder)]) == 0
    assert result["selected"]["metric"].removeprefix("MR-full-") in capsys.readouterr().out
    return result, brief


@pytest.mark.parametrize(
    ("data", "raters", "clip_seconds"), [("tvsum", 20, 2.0), ("youtube_highlights", 1, 1.0)]
)
def test_highlights_without_moments_train_the_saliency_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, raters: int, clip_seconds: float
) -> None:
    rows = {split: labelled_rows(split, raters) for split in ("train", "val")}
    corpus = make_corpus(tmp_path, rows, data, clip_seconds=clip_seconds)
    assert (
        main(["features", "validate", str(corpus.features), "--annotations", str(corpus.paths["val"])]) == 0
    )
    _, brief = train_and_evaluate(corpus.overrides, tmp_path, corpus.paths["val"], capsys)
    assert set(brief) == {"mAP", "mAP-BK", "mAP-BT"}
    log = (tmp_path / "run/csv/version_0/metrics.csv").read_text().splitlines()[0]
    assert {"train/loss_sal", "train/loss_video", "train/loss_layer", "val/loss", "val/mAP"} <= set(
        log.split(",")
    )
    assert not any(f"train/loss_{term}" in log for term in ("cls", "l1", "iou", "act"))
    submission = [
        json.loads(line) for line in (tmp_path / "run/val_submission.jsonl").read_text().splitlines()
    ]
    labels = {row["qid"]: row["label"] for row in rows["val"]}
    for row in submission:
        assert row["pred_relevant_windows"] == []
        assert len(row["pred_saliency_scores"]) == len(labels[row["qid"]])


def test_features_of_another_clip_length_are_labelled_and_scored_on_the_grid_of_the_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TVSum labels clips of 2 s; features of 1 s have twice as many clips."""
    rows = {split: labelled_rows(split, 20) for split in ("train", "val")}
    corpus = make_corpus(tmp_path, rows, "tvsum")
    seconds = [Record(r["qid"], r["vid"], r["query"], 2 * r["duration"]) for r in rows["train"] + rows["val"]]
    features = tmp_path / "seconds.h5"
    write_simulated(seconds, features, clip_seconds=1.0, video_dim=16, text_dim=16, levels=2)
    overrides = [*corpus.overrides, "data.clip_seconds=1", f"data.features={features}"]
    train_and_evaluate(overrides, tmp_path, corpus.paths["val"], capsys)
    lines = (tmp_path / "run/val_submission.jsonl").read_text().splitlines()
    found = {row["qid"]: len(row["pred_saliency_scores"]) for row in map(json.loads, lines)}
    assert found == {row["qid"]: len(row["label"]) for row in rows["val"]}


def test_a_domain_is_trained_and_evaluated_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {split: labelled_rows(split, 20) for split in ("train", "val")}
    corpus = make_corpus(tmp_path, rows, "tvsum")
    overrides = [*corpus.overrides, "data.domain=BT"]
    _, brief = train_and_evaluate(overrides, tmp_path, corpus.paths["val"], capsys, "--domain", "BT")
    assert set(brief) == {"mAP", "mAP-BT"}
    assert main(["show", str(tmp_path / "run")]) == 0
    assert main(["analyze", str(tmp_path / "run")]) == 2
    assert "'relevant_windows'" in capsys.readouterr().err
    assert main(["train", *corpus.overrides, "data.domain=XY", f"run_dir={tmp_path}/other"]) == 2
    assert "has no row of domain 'XY'; choose from BK, BT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.weights.cls=1"], "loss.weights.cls must be 0 because decode.max_moments=0"),
        (["decode.max_moments=5"], "loss.weights: cls or act must be positive"),
        (
            ["decode.max_moments=5", "loss.weights.cls=1"],
            "8 rows lack relevant_windows; set decode.max_moments=0",
        ),
        (
            ["select.metric=MR-full-mAP"],
            "'MR-full-mAP' has no value on tvsum val; choose from mAP, mAP-BK, mAP-BT",
        ),
    ],
)
def test_what_does_not_fit_highlights_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    rows = {split: labelled_rows(split, 20) for split in ("train", "val")}
    corpus = make_corpus(tmp_path, rows, "tvsum")
    assert main(["train", *corpus.overrides, *overrides, f"run_dir={tmp_path}/run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "clip_seconds", "metrics"),
    [
        (
            "ego4d_nlq",
            2.0,
            {"MR-full-R1@0.3", "MR-full-R1@0.5", "MR-full-R5@0.3", "MR-full-R5@0.5", "MR-full-mIoU"},
        ),
        ("clotho_moment", 1.0, {"MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mAP@0.5", "MR-full-mAP@0.75"}),
        ("castella", 1.0, {"MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mAP@0.5", "MR-full-mAP@0.75"}),
    ],
)
def test_moments_without_saliency_train_with_the_metrics_of_their_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, clip_seconds: float, metrics: set[str]
) -> None:
    rows = {split: make_rows(split, 6, scores=False, text_qids=True) for split in ("train", "val")}
    rows["train"][1]["relevant_windows"] = [[3.0, 3.0]]
    rows["val"][1]["relevant_windows"] = [[3.0, 3.0]]
    rows["val"][2]["relevant_windows"] += [[98.0, 99.0]]
    corpus = make_corpus(tmp_path, rows, data, clip_seconds=clip_seconds)
    _, brief = train_and_evaluate(corpus.overrides, tmp_path, corpus.paths["val"], capsys)
    assert metrics <= set(brief)
    assert not any(name.startswith("HL") for name in brief)


def test_activitynet_captions_trains_from_the_authors_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {}
    for split in ("train", "val", "test"):
        videos: dict[str, Any] = {}
        for row in make_rows(split, 6, scores=False):
            video = videos.setdefault(
                row["vid"], {"duration": row["duration"] + 0.4, "timestamps": [], "sentences": []}
            )
            video["timestamps"] += row["relevant_windows"]
            video["sentences"].append(row["query"])
        paths[split] = tmp_path / f"{split}.json"
        paths[split].write_text(json.dumps(videos))
    records = [record for path in paths.values() for record in read_annotations(path).records]
    write_simulated(records, tmp_path / "f.h5", video_dim=16, text_dim=16, levels=2)
    overrides = ["data=activitynet", *TINY, f"data.features={tmp_path / 'f.h5'}"]
    overrides += [f"data.annotations.{split}={path}" for split, path in paths.items()]
    _, brief = train_and_evaluate(overrides, tmp_path, paths["val"], capsys)
    assert {"MR-full-R1@0.3", "MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mIoU"} <= set(brief)
