"""The shortest and the longest videos, queries and lists of moments, from files to metrics."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from helpers.corpus import TINY, write_rows
from helpers.tiny_baselines import build, configured, run
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.collate import collate
from sdst.data.dataset import GroundingDataset
from sdst.data.store import FeatureStore
from sdst.features.writer import FeatureWriter
from sdst.training.run_folder import BEST
from sdst.types import Batch, Record

DV, DT = 6, 5  # as in helpers.tiny_baselines
SHAPES = [(1, 1, 1), (2, 1, 1), (2, 500, 1), (4000, 3, 1), (40, 500, 5), (400, 1, 200)]
"""Numbers of clips, tokens and moments per query."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Annotations of one query per shape, and its features in four layers."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    with FeatureWriter(
        folder / "f.h5", backbone="b", video_layers=range(1, 5), text_layers=range(1, 5), clip_seconds=2.0
    ) as writer:
        for qid, (clips, tokens, moments) in enumerate(SHAPES):
            starts = np.arange(moments) * (
                clips // moments
            )  # a clip each, with one between them if there is one
            rows.append(
                {
                    "qid": qid,
                    "vid": f"v{qid}",
                    "query": "word",
                    "duration": 2 * clips,
                    "relevant_windows": [[int(2 * start), int(2 * start + 2)] for start in starts],
                    "relevant_clip_ids": starts.tolist(),
                    "saliency_scores": rng.integers(2, 5, (moments, 3)).tolist(),
                }
            )
            writer.write_video("adaptive", f"v{qid}", rng.normal(size=(clips, 4, DV)))
            writer.write_text(qid, rng.normal(size=(tokens, 4, DT)))
        writer.finish()
    return {"rows": write_rows(folder / "rows.jsonl", rows), "features": folder / "f.h5"}


@pytest.mark.parametrize("model", ["sdst", "r2_tuning"])
def test_training_prediction_and_metrics(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    run_dir, out = tmp_path / "run", tmp_path / "out.jsonl"
    sizes = [item for item in TINY if model == "sdst" or not item.startswith(("model.", "levels."))]
    arguments = [
        *("data=qvhighlights", *sizes, f"model={model}", "model.dim=16", "model.heads=2"),
        *("trainer.max_epochs=1", "data.batch_size=2", "data.min_duration=1", f"run_dir={run_dir}"),
        *(f"data.annotations.{split}={files['rows']}" for split in ("train", "val")),
        *("data.annotations.test=null", f"data.features={files['features']}"),
    ]
    assert main(["train", *arguments]) == 0
    stored = ["--features", str(files["features"]), "--annotations", str(files["rows"])]
    assert main(["predict", "--checkpoint", str(run_dir / BEST), *stored, "--out", str(out)]) == 0
    predicted = {row["qid"]: row for row in map(json.loads, out.read_text().splitlines())}
    for qid, (clips, _, _) in enumerate(SHAPES):
        windows = np.array(predicted[qid]["pred_relevant_windows"])
        assert len(predicted[qid]["pred_saliency_scores"]) == clips
        assert len(windows) > 0
        assert (windows[:, 0] >= 0).all()
        assert (windows[:, 0] <= windows[:, 1]).all()
        assert (windows[:, 1] <= 2 * clips).all()
    capsys.readouterr()
    assert main(["evaluate", str(out), str(files["rows"]), "--json"]) == 0
    brief = json.loads(capsys.readouterr().out)["brief"]
    assert brief["MR-full-mAP"] is not None
    assert all(value is None or 0 <= value <= 100 for value in brief.values())


@pytest.mark.parametrize("model", ["sdst", "r2_tuning"])
def test_padding_to_the_longest_does_not_change_the_shortest(files: dict[str, Path], model: str) -> None:
    store = FeatureStore(files["features"], video_layers=layers(model), text_layers=layers(model))
    chosen = [records(files)[qid] for qid in (0, 4, 5)]
    dataset = GroundingDataset(chosen, store, 2.0, None)
    network = build(model)
    if model == "sdst":  # its references amplify the rounding of many clips from level to level
        network = network.double()
    together = run(network, in_precision(network, collate([dataset[0, index] for index in range(3)])))
    for index, record in enumerate(chosen):
        alone = run(network, in_precision(network, collate([dataset[0, index]])))
        clips = int(record.duration / 2)
        np.testing.assert_allclose(
            together.saliency[index, :clips].detach(), alone.saliency[0].detach(), atol=1e-6
        )
        if model == "sdst":  # an anchor model has more anchors in a longer batch
            np.testing.assert_allclose(
                together.references[index].detach(), alone.references[0].detach(), atol=1e-6
            )


def in_precision(network: nn.Module, batch: Batch) -> Batch:
    """The batch with features in the precision of the network's weights."""
    dtype = next(network.parameters()).dtype
    return replace(batch, video=batch.video.to(dtype), text=batch.text.to(dtype))


def layers(model: str) -> list[int]:
    """One layer number per level of the model."""
    return list(range(1, configured(model)["levels"]["count"] + 1))


def records(files: dict[str, Path]) -> list[Record]:
    return list(read_annotations(files["rows"]).records)
