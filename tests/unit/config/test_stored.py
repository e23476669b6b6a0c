"""Runs of earlier versions load: configuration, checkpoint, page and resuming.

``tests/data/run_of_6d3aee6`` was trained by commit 6d3aee6 for one epoch on the corpus inside it. Its paths are
relative to its parent folder.
"""

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf, open_dict

from helpers.corpus import Corpus
from sdst.cli import main
from sdst.config.compose import compose
from sdst.config.stored import as_config, stored_config, with_first_names
from sdst.data.fingerprint import fingerprint
from sdst.models.attention import ClipAttention, DeformableAttention
from sdst.sweeps.jobs import NOT_IDENTITY, identity
from sdst.training.checkpoint import build_model
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
    former: Any = OmegaConf.to_container(OmegaConf.load(STORED / "config.yaml").model)
    for option in ("attention", "num_points", "sampling", "cnn_depth", "rdsa_dim"):
        del former[option]
    attention = {
        "_target_": "sdst.models.attention.RDSA",
        "num_points": 4,
        "sampling": ["l", "c", "r"],
        "cnn_depth": 1,
        "query_dim": 4,
        "spread": "circle",
    }
    assert config.model == former | {"attention": attention} | AS_THEN


AS_THEN = {
    "references": "spread",
    "places": False,
    "denoising_groups": 0,
    "denoising_noise": 1.0,
    "roi_context": 1.0,
}
"""Later options of the model, with the values that do what it did before."""
DEFORMABLE_THEN = {"select_from": "first", "with_place": False, "spread": "circle"}


DEFORMABLE_OVERRIDES = [
    f"model.attention.{key}={str(value).lower()}" for key, value in DEFORMABLE_THEN.items()
]

FORMER: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    # options of the model as they were stored, its attention today, overrides that choose it today
    "rdsa": (
        {"attention": "rdsa", "num_points": 6, "sampling": ["r", "l"], "cnn_depth": 0, "rdsa_dim": 32},
        {
            "_target_": "sdst.models.attention.RDSA",
            "num_points": 6,
            "sampling": ["r", "l"],
            "cnn_depth": 0,
            "query_dim": 32,
            "spread": "circle",
        },
        [
            "attention=rdsa",
            "model.attention.num_points=6",
            "model.attention.sampling=[r,l]",
            "model.attention.cnn_depth=0",
            "model.attention.query_dim=32",
        ],
    ),
    "deformable": (
        {
            "attention": "deformable",
            "num_points": 3,
            "sampling": ["l", "c", "r"],
            "cnn_depth": 2,
            "rdsa_dim": 64,
        },
        {"_target_": "sdst.models.attention.Deformable", "num_points": 3, "start": "learned"}
        | DEFORMABLE_THEN,
        ["attention=deformable", "model.attention.num_points=3", *DEFORMABLE_OVERRIDES],
    ),
    "pure_init": (
        {
            "attention": "pure_init",
            "num_points": 5,
            "sampling": ["l", "c", "r"],
            "cnn_depth": 2,
            "rdsa_dim": 64,
        },
        {"_target_": "sdst.models.attention.Deformable", "num_points": 5, "start": "pure"} | DEFORMABLE_THEN,
        ["attention=pure_init", "model.attention.num_points=5", *DEFORMABLE_OVERRIDES],
    ),
    "mixed_init": (
        {
            "attention": "mixed_init",
            "num_points": 2,
            "sampling": ["l", "c", "r"],
            "cnn_depth": 2,
            "rdsa_dim": 64,
        },
        {"_target_": "sdst.models.attention.Deformable", "num_points": 2, "start": "mixed"} | DEFORMABLE_THEN,
        ["attention=mixed_init", "model.attention.num_points=2", *DEFORMABLE_OVERRIDES],
    ),
    "standard": (
        {
            "attention": "standard",
            "num_points": 4,
            "sampling": ["l", "c", "r"],
            "cnn_depth": 2,
            "rdsa_dim": 64,
        },
        {"_target_": "sdst.models.attention.Standard"},
        ["attention=standard"],
    ),
}


def former_run(attention: str) -> dict[str, Any]:
    """The configuration of the stored run, but with another attention and other sizes."""
    values: Any = OmegaConf.to_container(OmegaConf.load(STORED / "config.yaml"))
    values["model"] |= FORMER[attention][0]
    return values


@pytest.mark.parametrize("attention", FORMER)
def test_every_former_attention_reads_into_todays_node(attention: str) -> None:
    flat, today, _ = FORMER[attention]
    values = former_run(attention)
    before = copy.deepcopy(values)
    model = as_config(values, "config.yaml").model
    assert values == before
    assert model == {key: value for key, value in before["model"].items() if key not in flat} | AS_THEN | {
        "attention": today
    }


@pytest.mark.parametrize("attention", FORMER)
def test_a_stored_configuration_of_today_stays_as_it_is(attention: str) -> None:
    config = compose(FORMER[attention][2])
    OmegaConf.resolve(config)
    assert as_config(OmegaConf.to_container(config), "config.yaml") == config


@pytest.mark.parametrize("attention", FORMER)
def test_first_names_give_back_the_former_spelling(attention: str) -> None:
    flat, _, overrides = FORMER[attention]
    values = former_run(attention)
    read: Any = OmegaConf.to_container(as_config(values, "config.yaml"))
    first = with_first_names(read)
    assert first["model"] == values["model"]
    assert first["levels"] == values["levels"]
    assert "callbacks" not in first
    then = [f"model.{key}={str(value).lower()}" for key, value in AS_THEN.items()]
    composed: Any = OmegaConf.to_container(compose([*overrides, *then]), resolve=True)
    expected = {
        "_target_": "sdst.models.sdst.SDST",
        "num_queries": 30,
        "dim": 256,
        "heads": 8,
        "ffn_ratio": 4,
        "dropout": 0.5,
        "drop_path": 0.25,
        "sharing": True,
        "signal": "post_ca_sa_ffn",
        "modules": ["ca", "sa", "rdsa", "ffn"],
        "stop_reference_gradient": True,
        "roi_bins": 16,
        "actionness_dim": 128,
    }
    assert with_first_names(composed)["model"] == expected | flat


@pytest.mark.parametrize("attention", FORMER)
def test_model_of_every_former_attention_is_built_with_its_sizes(attention: str) -> None:
    config: Any = OmegaConf.to_container(as_config(former_run(attention), "config.yaml"))
    with torch.device("meta"):
        model = build_model(config, {"video_dim": 8, "text_dim": 8})
    rdsa = model.get_submodule("sparse.0.rdsa")
    parts = {name.partition(".")[0] for name, _ in model.named_parameters()}
    assert ("propose" in parts) == attention.endswith("_init")
    if attention == "standard":
        assert isinstance(rdsa, ClipAttention)
        return
    assert isinstance(rdsa, DeformableAttention)
    flat = FORMER[attention][0]
    assert rdsa.offset.out_features == config["model"]["heads"] * flat["num_points"]
    assert rdsa.sampling == ([1.0, -1.0] if attention == "rdsa" else [])
    assert rdsa.offset.in_features == (flat["rdsa_dim"] if attention == "rdsa" else config["model"]["dim"])


def test_renamed_targets_are_replaced_at_any_depth() -> None:
    values: Any = OmegaConf.to_container(OmegaConf.load(STORED / "config.yaml"))
    values["trainer"]["callbacks"] = [{"_target_": "sdst.tracking.wandb_logger", "tags": ["a"]}]
    config = as_config(values, "config.yaml")
    assert config.trainer.callbacks == [
        {"_target_": "sdst.training.loggers.wandb.wandb_logger", "tags": ["a"]}
    ]
    assert values["trainer"]["callbacks"][0]["_target_"] == "sdst.tracking.wandb_logger"


def test_old_single_logger_becomes_a_named_logger() -> None:
    values: Any = OmegaConf.to_container(OmegaConf.load(STORED / "config.yaml"))
    values["logger"] = {
        "_target_": "sdst.tracking.wandb_logger",
        "project": "sdst",
        "group": None,
        "tags": [],
    }
    wandb = {**values["logger"], "_target_": "sdst.training.loggers.wandb.wandb_logger"}
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
    sizes = ["model.attention.query_dim=8", "model.attention.cnn_depth=1"]
    sizes += [f"model.{key}={str(value).lower()}" for key, value in AS_THEN.items()]
    config = compose(
        [*corpus.overrides, *sizes, "levels.direction=descending", "data.longer=refuse", "seed=3"]
    )
    before: Any = OmegaConf.to_container(config, resolve=True)
    before["levels"] = {
        "count": 2,
        "source": "intermediate",
        "stride": 1,
        "order": "descending",
        "text_stride": 1,
    }
    del before["callbacks"], before["compile_mode"], before["init_from"], before["model"]["attention"]
    for later in ("repeat", "longer", "missing", "domain", "pad_to"):
        del before["data"][later]
    del before["loss"]["over_levels"]
    for key in AS_THEN:
        del before["model"][key]
    before["model"] |= {
        "attention": "rdsa",
        "num_points": 4,
        "sampling": ["l", "c", "r"],
        "cnn_depth": 1,
        "rdsa_dim": 8,
    }
    for key in NOT_IDENTITY:
        section, _, option = key.rpartition(".")
        (before[section] if section else before).pop(option, None)
    files = {split: hashlib.sha256(path.read_bytes()).hexdigest() for split, path in corpus.paths.items()}
    before["content"] = {"annotations": files, "features": fingerprint(corpus.features, "adaptive")}
    digest = hashlib.sha256(json.dumps(before, sort_keys=True).encode())
    assert identity(config) == digest.hexdigest()[:12]


def test_no_callback_leaves_the_identity_and_a_callback_changes_it(corpus: Corpus) -> None:
    plain = identity(compose(corpus.overrides))
    assert identity(compose([*corpus.overrides, "callbacks=default"])) == plain
    stopped = identity(compose([*corpus.overrides, "callbacks=early_stopping"]))
    sooner = identity(
        compose([*corpus.overrides, "callbacks=early_stopping", "callbacks.early_stopping.patience=2"])
    )
    assert len({plain, stopped, sooner}) == 3


def test_an_option_newer_than_the_first_version_changes_the_identity_unless_it_has_its_default(
    corpus: Corpus,
) -> None:
    config = compose([*corpus.overrides, "data.longer=refuse"])
    plain = identity(config)
    with open_dict(config):
        for later in ("repeat", "longer", "missing"):  # as an earlier version composed it
            del config.data[later]
    assert identity(config) == plain
    assert identity(compose([*corpus.overrides, "data.longer=cut"])) != plain
    assert identity(compose([*corpus.overrides, "data.longer=refuse", "data.repeat=1"])) == plain
    assert identity(compose([*corpus.overrides, "data.repeat=4"])) != plain


def test_decay_epochs_enter_the_identity_as_they_are_given(corpus: Corpus) -> None:
    def identified(*overrides: str) -> str:
        return identity(compose([*corpus.overrides, *overrides]))

    values = ("20", "[20]", "[20,40]")
    assert identified("optim.decay_epochs=20") == identified()
    assert len({identified(f"optim.decay_epochs={value}") for value in values}) == 3


def test_names_of_a_run_leave_its_identity(corpus: Corpus) -> None:
    named = compose([*corpus.overrides, "group=table5", "name=a", "tags=[b]", "run_dir=elsewhere"])
    assert identity(named) == identity(compose(corpus.overrides))
