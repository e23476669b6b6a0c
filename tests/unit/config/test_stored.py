"""Runs of earlier versions load: configuration, checkpoint, page and resuming.

``tests/data/run_of_6d3aee6`` was trained by commit 6d3aee6 for one epoch on the corpus inside it. Its paths are
relative to its parent folder.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from helpers.corpus import Corpus
from sdst.cli import main
from sdst.config.compose import compose
from sdst.config.stored import as_config, stored_config
from sdst.data.fingerprint import fingerprint
from sdst.sweeps.jobs import NOT_IDENTITY, identity
from sdst.training.run_folder import BEST

NAME = "run_of_6d3aee6"
STORED = Path(__file__).parents[2] / "data" / NAME


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy of the run at the relative path it was trained at."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(STORED, tmp_path / NAME)
    return Path(NAME)


def rows_of(text: str) -> dict[Any, dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return {row["qid"]: row for row in rows}


def test_stored_configuration_gets_the_current_names() -> None:
    config = stored_config(STORED / "config.yaml")
    assert config.levels.direction == "descending"
    assert "order" not in config.levels
    assert config.logger == {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "csv"}}
    assert config.model == OmegaConf.load(STORED / "config.yaml").model


def test_renamed_targets_are_replaced_at_any_depth() -> None:
    values: Any = OmegaConf.to_container(OmegaConf.load(STORED / "config.yaml"))
    values["trainer"]["callbacks"] = [{"_target_": "sdst.tracking.wandb_logger", "tags": ["a"]}]
    config = as_config(values, "config.yaml")
    assert config.trainer.callbacks == [{"_target_": "sdst.training.loggers.wandb_logger", "tags": ["a"]}]
    assert values["trainer"]["callbacks"][0]["_target_"] == "sdst.tracking.wandb_logger"


def test_old_single_logger_becomes_a_named_logger() -> None:
    values: Any = OmegaConf.to_container(OmegaConf.load(STORED / "config.yaml"))
    values["logger"] = {
        "_target_": "sdst.tracking.wandb_logger",
        "project": "sdst",
        "group": None,
        "tags": [],
    }
    wandb = {**values["logger"], "_target_": "sdst.training.loggers.wandb_logger"}
    assert as_config(values, "config.yaml").logger == {"wandb": wandb}


def test_old_checkpoint_gives_its_stored_predictions(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        "--features",
        str(run_dir / "corpus/features.h5"),
        "--annotations",
        str(run_dir / "corpus/val.jsonl"),
    ]
    assert main(["predict", "--checkpoint", str(run_dir / BEST), *files]) == 0
    ours = rows_of(capsys.readouterr().out)
    theirs = rows_of((run_dir / "val_submission.jsonl").read_text())
    assert ours.keys() == theirs.keys()
    for qid, row in theirs.items():
        for key in ("pred_relevant_windows", "pred_saliency_scores"):
            np.testing.assert_allclose(ours[qid][key], row[key], rtol=1e-3, atol=1e-3)


def test_show_writes_the_page_of_an_old_run(run_dir: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["show", str(run_dir), "--out", str(page)]) == 0
    assert NAME in page.read_text()


def test_old_run_resumes(run_dir: Path) -> None:
    first = json.loads((run_dir / "metrics.json").read_text())
    (run_dir / "metrics.json").unlink()
    assert main(["train", f"resume={run_dir}", "trainer.max_epochs=2"]) == 0
    assert (first["epochs"], json.loads((run_dir / "metrics.json").read_text())["epochs"]) == (1, 2)
    assert stored_config(run_dir / "config.yaml").levels.direction == "descending"


def test_identity_is_computed_with_the_old_option_names(corpus: Corpus) -> None:
    """Committed results and old runs are found by this identity."""
    config = compose([*corpus.overrides, "levels.direction=descending", "seed=3"])
    before: Any = OmegaConf.to_container(config, resolve=True)
    before["levels"] = {
        "count": 2,
        "source": "intermediate",
        "stride": 1,
        "order": "descending",
        "text_stride": 1,
    }
    for key in NOT_IDENTITY:
        section, _, option = key.rpartition(".")
        (before[section] if section else before).pop(option, None)
    files = {split: hashlib.sha256(path.read_bytes()).hexdigest() for split, path in corpus.paths.items()}
    before["content"] = {"annotations": files, "features": fingerprint(corpus.features, "adaptive")}
    digest = hashlib.sha256(json.dumps(before, sort_keys=True).encode())
    assert identity(config) == digest.hexdigest()[:12]
