"""Every choice of a group that the paper studies gives the configuration of its row, and nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import OmegaConf

from helpers.composed import composed
from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.same_result import read_json
from sdst.cli import main
from sdst.config.checks import check_options, resolve_auto_options
from sdst.config.compose import compose, conf_dir
from sdst.errors import UserError
from sdst.training.builders import make_trainer
from sdst.training.callbacks.step_timer import StepTimer
from sdst.training.run_folder import RunFolder

Train = Callable[..., Path]


def deformable(start: str) -> dict[str, Any]:
    return {
        "_target_": "sdst.models.attention.Deformable",
        "num_points": 4,
        "start": start,
        "select_from": "last",
        "with_place": True,
        "spread": "circle",
    }


def weights(**others: float) -> dict[str, float]:
    """Eq. 14 and App. A, with other values for some terms."""
    return {"cls": 1, "l1": 1, "iou": 1, "act": 1, "sal": 0.1, "video": 0.1, "layer": 0.1} | others


GROUPS: dict[str, tuple[str, dict[str, Any]]] = {
    # group: option, choice -> its value
    "attention": (  # Tab. 5
        "model.attention",
        {
            "standard": {"_target_": "sdst.models.attention.Standard"},
            "deformable": deformable("learned"),
            "pure_init": deformable("pure"),
            "mixed_init": deformable("mixed"),
            "rdsa": {
                "_target_": "sdst.models.attention.RDSA",
                "num_points": 4,
                "sampling": ["l", "c", "r"],
                "cnn_depth": 2,
                "query_dim": 64,
                "spread": "circle",
            },
        },
    ),
    "order": (
        "model.modules",
        {
            # Tab. 7
            "no_ca": ["sa", "rdsa", "ffn"],
            "no_sa": ["ca", "rdsa", "ffn"],
            "no_rdsa": ["ca", "sa", "ffn"],
            "no_ffn": ["ca", "sa", "rdsa"],
            # Tab. N
            "sa_ca_rdsa_ffn": ["sa", "ca", "rdsa", "ffn"],
            "sa_rdsa_ca_ffn": ["sa", "rdsa", "ca", "ffn"],
            "rdsa_sa_ca_ffn": ["rdsa", "sa", "ca", "ffn"],
            "rdsa_ca_sa_ffn": ["rdsa", "ca", "sa", "ffn"],
            "ca_rdsa_sa_ffn": ["ca", "rdsa", "sa", "ffn"],
            "ca_sa_rdsa_ffn": ["ca", "sa", "rdsa", "ffn"],
        },
    ),
    "levels": ("levels.count", {"k1": 1, "k2": 2, "k3": 3, "k4": 4, "k5": 5}),  # Tab. K
    "pooling": ("data.pooling", {"cls": "cls", "avg": "avg", "adaptive": "adaptive"}),  # Tab. 3
    "loss": (
        "loss.weights",
        {
            "paper": weights(),
            # Tab. E
            "no_cls": weights(cls=0),
            "no_l1": weights(l1=0),
            "no_iou": weights(iou=0),
            "no_act": weights(act=0),
            "no_align": weights(video=0, layer=0),
            "no_video": weights(video=0),
            "no_layer": weights(layer=0),
            # Tab. F, with the weights of Tab. G
            "perm_1": weights(cls=1.47, l1=1.91, sal=0.11, video=0.18, layer=0.42, iou=0.84, act=1.27),
            "perm_2": weights(cls=1.43, l1=0.41, sal=0.17, video=0.33, layer=0.37, iou=0.3, act=0.29),
            "perm_3": weights(cls=1.81, l1=0.92, sal=0.36, video=0.42, layer=0.23, iou=0.63, act=0.64),
            "perm_4": weights(cls=0.4, l1=1.24, sal=0.31, video=0.1, layer=0.16, iou=1.13, act=0.64),
        },
    ),
    "callbacks": (
        "callbacks",
        {
            "default": {},
            "early_stopping": {
                "early_stopping": {
                    "_target_": "lightning.pytorch.callbacks.EarlyStopping",
                    "monitor": "val/MR-full-mAP",
                    "mode": "max",
                    "patience": 10,
                }
            },
        },
    ),
}
CHOICES = [
    pytest.param(group, choice, id=f"{group}={choice}")
    for group, (_, choices) in GROUPS.items()
    for choice in choices
]


def resolved(*overrides: str) -> dict[str, Any]:
    config = composed(*overrides)
    config.run_dir = "run"
    values: Any = OmegaConf.to_container(config, resolve=True)
    return values


@pytest.fixture(scope="module")
def default() -> Any:
    return OmegaConf.create(resolved())


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_a_group_is_written_here(group: str) -> None:
    assert {path.stem for path in (conf_dir() / group).glob("*.yaml")} == set(GROUPS[group][1])


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_sets_the_options_of_its_row_and_no_other(default: Any, group: str, choice: str) -> None:
    option, choices = GROUPS[group]
    expected = default.copy()
    OmegaConf.update(expected, option, choices[choice], merge=False)
    got = OmegaConf.create(resolved(f"{group}={choice}"))
    assert got == expected
    check_options(got)
    resolve_auto_options(got)


def test_the_defaults_are_the_papers_rows(default: Any) -> None:
    chosen = {
        "attention": "rdsa",
        "order": "ca_sa_rdsa_ffn",
        "levels": "k4",
        "pooling": "adaptive",
        "loss": "paper",
        "callbacks": "default",
    }
    assert chosen.keys() == GROUPS.keys()
    for group, choice in chosen.items():
        option, choices = GROUPS[group]
        assert OmegaConf.select(default, option) == choices[choice]


def test_choices_of_several_groups_combine_and_options_change_them() -> None:
    config = compose(
        [
            *("attention=deformable", "order=no_sa", "levels=k2", "pooling=avg", "loss=no_l1"),
            *("scale=laptop", "model.attention.num_points=8", "loss.weights.sal=0.5", "levels.stride=2"),
        ]
    )
    assert config.model.attention == deformable("learned") | {"num_points": 8}
    assert config.model.modules == ["ca", "rdsa", "ffn"]
    assert (config.levels.count, config.levels.stride) == (2, 2)
    assert (config.data.name, config.data.pooling) == (composed("data=world").data.name, "avg")
    assert config.loss.weights == weights(l1=0, sal=0.5)
    assert (config.model.dim, config.model.heads) == (64, 4)


def test_laptop_scale_is_the_small_world_for_twice_as_long(default: Any) -> None:
    assert resolved("scale=paper") == default
    expected = resolved("data=world")
    assert (expected["model"]["dim"], expected["model"]["heads"]) == (64, 4)
    expected["optim"]["decay_epochs"] = [16]
    expected["trainer"]["max_epochs"] = 2 * expected["trainer"]["max_epochs"]
    assert resolved("scale=laptop") == expected


@pytest.mark.parametrize("data", ["qvhighlights", "charades", "tacos", "world"])
def test_the_pooling_of_every_data_set_can_be_chosen(data: str) -> None:
    assert compose([f"data={data}", "pooling=cls"]).data.pooling == "cls"


REFUSED = [
    ["attention=standard", "model.attention.num_points=8"],  # it reads all clips
    ["attention=standard", "model.attention.sampling=[c]"],
    ["attention=deformable", "model.attention.query_dim=8"],
    ["attention=deformable", "model.attention.cnn_depth=0"],
    ["attention=rdsa", "model.attention.start=pure"],
    ["model=r2_tuning", "attention=standard"],  # it has no such part
    ["model=lst", "order=no_sa"],
]


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_an_option_that_the_choice_lacks_is_refused(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as refusal:
        compose(overrides)
    assert main(["train", *overrides, f"run_dir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"sdst: error: {refusal.value}"
    assert overrides[1].partition("=")[0] in line
    assert not (tmp_path / "run").exists()


# --- callbacks ---


def test_a_chosen_callback_is_in_the_trainer(corpus: Corpus, tmp_path: Path) -> None:
    def callbacks(*overrides: str) -> list[Any]:
        config = composed(*corpus.overrides, *overrides)
        trainer = make_trainer(config, config.select, RunFolder(tmp_path), StepTimer())
        return trainer.callbacks  # type: ignore[attr-defined, no-any-return]

    own = {type(callback) for callback in callbacks()}
    chosen = callbacks("callbacks=early_stopping", "callbacks.early_stopping.patience=3")
    (stop,) = (callback for callback in chosen if type(callback) not in own)
    assert isinstance(stop, EarlyStopping)
    assert (stop.patience, stop.monitor, stop.mode) == (3, "val/MR-full-mAP", "max")


def test_early_stopping_ends_a_run_that_does_not_improve(train: Train, tmp_path: Path) -> None:
    still = ["optim.lr=0", "trainer.max_epochs=4", "data.annotations.test=null"]
    whole = train(tmp_path / "whole", *still)
    stopped = train(
        tmp_path / "stopped", *still, "callbacks=early_stopping", "callbacks.early_stopping.patience=1"
    )
    results = [read_json(run / "metrics.json") for run in (whole, stopped)]
    assert [result["epochs"] for result in results] == [4, 2]
    assert results[0]["best"] == results[1]["best"]
    stored = yaml.safe_load((stopped / "config.yaml").read_text())["callbacks"]
    assert stored["early_stopping"]["monitor"] == "val/MR-full-mAP"


# --- debug ---


def debug(kind: str, data: Corpus, runs: Path, *overrides: str) -> Path:
    """Train with a debug choice and return the run folder; the schedule is the choice's own."""
    fixed = [text for text in data.overrides if not text.startswith("trainer.max_epochs")]
    assert main(["train", *fixed, f"debug={kind}", f"paths.runs={runs}", *overrides]) == 0
    (run_dir,) = (runs / "debug").iterdir()
    assert [path.name for path in runs.iterdir()] == ["debug"]
    return run_dir


def test_debug_fdr_trains_one_batch(corpus: Corpus, tmp_path: Path) -> None:
    run_dir = debug("fdr", corpus, tmp_path)
    assert read_json(run_dir / "metrics.json")["epochs"] == 1
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    trainer = config["trainer"]
    assert [trainer[f"limit_{split}_batches"] for split in ("train", "val")] == [1, 1]
    assert config["data"]["num_workers"] == 0


def test_debug_limit_trains_a_tenth_of_three_epochs(tmp_path: Path) -> None:
    rows = {split: make_rows(split, 20) for split in ("train", "val")}
    larger = make_corpus(tmp_path / "corpus", rows)
    run_dir = debug("limit", larger, tmp_path / "runs", "data.batch_size=1")
    assert read_json(run_dir / "metrics.json")["epochs"] == 3


def test_sdst_reads_its_levels_from_deep_to_shallow_and_the_baselines_from_shallow_to_deep() -> None:
    models = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    directions = {name: composed(f"model={name}").levels.direction for name in models}
    assert directions.pop("sdst") == "descending"
    assert set(directions.values()) == {"ascending"}
