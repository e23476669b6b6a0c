"""Every baseline model trains, predicts and is evaluated through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.corpus import Corpus
from helpers.tiny_baselines import ALL_MODELS, configured
from sdst.cli import main
from sdst.training.run_folder import BEST

Train = Callable[[str, Path], int]
WITH_FUSION = "sg_detr model.second_head=true decode.nms=fusion decode.iou_threshold=0.8"


@pytest.fixture
def train(corpus: Corpus) -> Train:
    """Function that trains a tiny model, given with further overrides, on the corpus and returns the exit status."""

    def run(name: str, run_dir: Path) -> int:
        common = [item for item in corpus.overrides if not item.startswith(("model.", "levels."))]
        # The corpus has features of two layers.
        model, *options = name.split()
        levels = min(2, configured(model)["levels"]["count"])
        small = [f"model={model}", *options, "model.dim=16", "model.heads=2", f"levels.count={levels}"]
        return main(["train", *common, *small, f"run_dir={run_dir}"])

    return run


def rows(path: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["qid"])


@pytest.mark.parametrize("name", [*ALL_MODELS, WITH_FUSION])
def test_predict_and_evaluate_reproduce_the_runs_submission_and_metrics(
    train: Train, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run_dir, out = tmp_path / "run", tmp_path / "out.jsonl"
    assert train(name, run_dir) == 0
    files = ["--features", str(corpus.features), "--annotations", str(corpus.paths["val"])]
    checkpoint = ["--checkpoint", str(run_dir / BEST)]
    assert main(["predict", *checkpoint, *files, "--out", str(out)]) == 0
    submission = run_dir / "val_submission.jsonl"
    for ours, theirs in zip(rows(out), rows(submission), strict=True):
        assert ours["qid"] == theirs["qid"]
        # Not bit for bit: a convolution rounds differently at another batch size, by some 1e-7 of a value.
        for key in ("pred_relevant_windows", "pred_saliency_scores"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=2e-6, atol=1e-6)
    capsys.readouterr()
    assert main(["evaluate", str(submission), str(corpus.paths["val"]), "--json"]) == 0
    brief = json.loads(capsys.readouterr().out)["brief"]
    assert brief == json.loads((run_dir / "metrics.json").read_text())["best"]["val"]


def test_train_refuses_an_option_of_another_model_in_one_line(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *corpus.overrides, "model=r2_tuning", f"run_dir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.num_queries" in line
