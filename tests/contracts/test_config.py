"""Every configuration composes, agrees with the code and the paper, and every option has an effect."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

import sdst
from helpers.composed import composed
from sdst.cli import main
from sdst.config.build import arguments_of, build
from sdst.config.checks import check_options, resolve_auto_options
from sdst.config.compose import compose, conf_dir
from sdst.config.schema import TrainConfig
from sdst.data.datamodule import GroundingDataModule
from sdst.errors import UserError
from sdst.training.checkpoint import build_model

CONF = Path(sdst.__file__).parents[2] / "conf"


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("data", "model", "logger"),
    [("qvhighlights", "sdst", logger) for logger in names("logger")]
    + [(data, model, "csv") for data in names("data") for model in names("model")],
)
def test_every_choice_composes_to_a_complete_configuration(data: str, model: str, logger: str) -> None:
    config = compose([f"data={data}", f"model={model}", f"logger={logger}"])
    OmegaConf.resolve(config)
    assert not OmegaConf.missing_keys(config)
    assert isinstance(OmegaConf.to_object(config), TrainConfig)
    check_options(config)
    resolve_auto_options(config)
    for node, constructor in (
        (config.model, get_class(config.model["_target_"])),
        (config.data, GroundingDataModule),
        (config.trainer, lightning.Trainer),
    ):
        assert node["_target_"].endswith(f".{constructor.__name__}")
        assert set(node) - {"_target_"} <= set(arguments_of(constructor))


R2_TUNING = {  # the official configurations
    "loss.weights": {
        data: {"cls": 1, "l1": 0.2, "iou": 0, "act": 0, "sal": sal, "video": 0.1, "layer": 0.1}
        for data, sal in {"qvhighlights": 0.1, "charades": 0.01, "tacos": 0.05}.items()
    },
    "model.dropout": {"qvhighlights": 0.5, "charades": 0.35, "tacos": 0.5},
    "model.drop_path": {"qvhighlights": 0.1, "charades": 0.1, "tacos": 0.1},
    "decode.nms": {"qvhighlights": "hard", "charades": "linear", "tacos": "linear"},
    "decode.iou_threshold": {"qvhighlights": 0.7, "charades": 0, "tacos": 0},
    "decode.round_to": {"qvhighlights": 2, "charades": 0.1, "tacos": None},
    "decode.max_moments": {"qvhighlights": 50, "charades": 50, "tacos": 50},
    "decode.score": {"qvhighlights": "class", "charades": "class", "tacos": "class"},
}


@pytest.mark.parametrize("data", ["qvhighlights", "charades", "tacos"])
def test_r2_tuning_uses_its_official_values(data: str) -> None:
    config = composed(f"data={data}", "model=r2_tuning")
    resolve_auto_options(config)
    expected = {key: values[data] for key, values in R2_TUNING.items()}
    assert {key: OmegaConf.select(config, key) for key in expected} == expected
    assert compose([f"data={data}", "model=r2_tuning", "decode.nms=none"]).decode.nms == "none"


PAPER = {  # App. A
    "model.num_queries": {"qvhighlights": 30, "charades": 30, "tacos": 5},
    "trainer.max_epochs": {"qvhighlights": 60, "charades": 50, "tacos": 150},
    "data.clip_seconds": {"qvhighlights": 1 / 0.5, "charades": 1 / 1, "tacos": 1 / 0.5},
    "optim.lr": {"qvhighlights": 1e-4, "charades": 2.5e-4, "tacos": 1e-4},
    "optim.decay_epochs": {"qvhighlights": 20, "charades": 30, "tacos": 20},
}
PAPER_FOR_ALL = {
    "data.batch_size": 32,
    "data.min_duration": 5,
    "optim.weight_decay": 1e-4,
    "optim.warmup_steps": 2000,
    "optim.warmup_ratio": 0.001,
    "optim.decay": 0.1,
    "trainer.gradient_clip_val": 35,
    "model.dim": 256,
    "model.heads": 8,
    "model.attention.num_points": 4,
    "model.dropout": 0.5,
    "model.drop_path": 0.25,
    "levels.count": 4,
    "levels.source": "intermediate",
    "levels.stride": 1,
    "loss.weights": {"cls": 1, "l1": 1, "iou": 1, "act": 1, "sal": 0.1, "video": 0.1, "layer": 0.1},
    "loss.alpha": 0.25,
    "loss.gamma": 2,
    "loss.temperature": 0.07,
}


@pytest.mark.parametrize("data", ["qvhighlights", "charades", "tacos"])
def test_sdst_uses_the_papers_values_on_each_dataset(data: str) -> None:
    config = composed(f"data={data}")
    expected = PAPER_FOR_ALL | {key: values[data] for key, values in PAPER.items()}
    assert {key: OmegaConf.select(config, key) for key in expected} == expected
    assert config.data.name == data


RECIPE = [
    *("data.batch_size", "data.repeat", "trainer.max_epochs"),
    *("optim.lr", "optim.warmup_steps", "optim.decay_epochs"),
]
R2_RECIPE = {  # the released configurations
    "qvhighlights": [128, 4, 30, 5e-4, 500, [20]],
    "charades": [32, 1, 50, 2.5e-4, 500, [30]],
    "tacos": [32, 1, 100, 2.5e-4, 500, [50]],
}


def recipe(config: DictConfig) -> list[Any]:
    values: Any = OmegaConf.to_container(config)
    return [values[section][key] for section, _, key in (option.partition(".") for option in RECIPE)]


def essence(config: DictConfig) -> Any:
    config.run_dir = "run"
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("data", R2_RECIPE)
def test_the_published_recipe_changes_the_schedule_alone(data: str) -> None:
    common, published = (
        compose([f"data={data}", "model=r2_tuning", f"recipe={choice}"]) for choice in ("common", "paper")
    )
    assert essence(common) == essence(compose([f"data={data}", "model=r2_tuning"]))
    assert recipe(common) == recipe(compose([f"data={data}"]))
    assert recipe(published) == R2_RECIPE[data]
    for option, value in zip(RECIPE, R2_RECIPE[data], strict=True):
        OmegaConf.update(common, option, value)
    assert essence(published) == essence(common)
    assert essence(compose([f"data={data}", "recipe=paper"])) == essence(compose([f"data={data}"]))


def test_values_change_a_published_recipe() -> None:
    config = compose(["model=r2_tuning", "recipe=paper", "data.repeat=2", "optim.decay_epochs=7"])
    assert recipe(config) == [128, 2, 30, 5e-4, 500, 7]


PUBLISHED = [name.removeprefix("paper_").split("_on_") for name in names("recipe_on_model")]
UNPUBLISHED = [
    [model, data] for model in names("model") for data in names("data") if [model, data] not in PUBLISHED
]
# Composing takes a tenth of a second, so every model and every data set is there once and not each of their pairs.
ONE_PER_MODEL = list({model: [model, data] for model, data in UNPUBLISHED}.values())
ONE_PER_DATA_SET = list({data: [model, data] for model, data in UNPUBLISHED}.values())


@pytest.mark.parametrize(("model", "data"), [*PUBLISHED, *ONE_PER_MODEL, *ONE_PER_DATA_SET])
def test_a_published_recipe_that_nobody_published_is_refused(model: str, data: str) -> None:
    config = compose([f"data={data}", f"model={model}", "recipe=paper"])
    if [model, data] in PUBLISHED:
        check_options(config)
    else:
        with pytest.raises(UserError, match=rf"recipe=paper has no schedule for \w+ on {data}"):
            check_options(config)


@pytest.mark.parametrize("model", names("model"))
def test_model_files_repeat_the_constructor_defaults(model: str) -> None:
    given = OmegaConf.to_container(composed(f"model={model}").model)
    constructor = get_class(given.pop("_target_"))
    if model == "sdst":
        assert given.pop("num_queries") == 30  # the constructor has no default: datasets differ
        attention = build(DictConfig(given["attention"]))
        given["attention"] = replace(attention, sampling=tuple(attention.sampling))
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = arguments_of(constructor).values()
    defaults = {p.name: p.default for p in parameters if p.kind == keyword}
    assert given == {
        name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()
    }


SMALL = {
    "dim": 16,
    "heads": 2,
    "num_queries": 3,
    "actionness_dim": 8,
    "roi_bins": 4,
    "max_clips": 4,
    "max_words": 1,  # twice as many still cut the inputs
}


def another(value: Any) -> Any:
    """A different legal value for an option."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value
    if isinstance(value, float):
        return value / 2 or 0.5
    return value[:-1]


def fingerprint(options: dict[str, Any]) -> list[Any]:
    """Parameter names and shapes, and the output and gradients of a training step."""
    torch.manual_seed(0)
    model = build_model(
        {"model": options, "levels": {"count": 2}}, {"video_dim": 6, "text_dim": 5}
    )  # in training mode, so that dropout shows
    generator = torch.Generator().manual_seed(0)
    video, text = (torch.randn(2, 2, n, width, generator=generator) for n, width in ((9, 6), (4, 5)))
    torch.manual_seed(1)
    valid = torch.tensor([9, 7])[:, None] > torch.arange(9), torch.ones(2, 4, dtype=torch.bool)
    output = model(video, valid[0], text, valid[1], torch.tensor([9.0, 7.0]))
    (output.class_logits.sum() + output.references.square().sum() + output.saliency.sum()).backward()
    shapes = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    gradients = [(n, p.grad.tolist()) for n, p in model.named_parameters() if p.grad is not None]
    return [shapes, output.class_logits.tolist(), output.saliency.tolist(), gradients]


# unit/models/test_variants.py tests the options of sdst.
@pytest.mark.parametrize("model", [model for model in names("model") if model != "sdst"])
def test_every_model_option_changes_the_model(model: str) -> None:
    options: Any = OmegaConf.to_container(composed(f"model={model}").model)
    options |= {key: value for key, value in SMALL.items() if key in options}
    before = fingerprint(options)
    assert fingerprint(options) == before
    assert len(options) > 3
    for option in options.keys() - {"_target_"}:
        assert fingerprint(options | {option: another(options[option])}) != before, option


def test_environment_variables_set_the_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, folder in {"DATA": "/d", "FEATURES": "/f", "RUNS": "/r"}.items():
        monkeypatch.setenv(f"SDST_{name}", folder)
    config = compose(["data=tacos"])
    assert config.data.annotations.train == "/d/tacos/train.jsonl"
    assert config.data.features == "/f/tacos.h5"
    assert config.run_dir.startswith("/r/tacos/")
    monkeypatch.delenv("SDST_FEATURES")
    assert compose(["data=tacos"]).data.features == "/d/features/tacos.h5"


def test_error_for_a_missing_configuration_folder_names_sdst_conf(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert conf_dir() == CONF
    monkeypatch.setenv("SDST_CONF", str(tmp_path))
    with pytest.raises(UserError, match="set SDST_CONF"):
        conf_dir()


def test_config_dir_option_adds_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text(
        "# @package _global_\ndefaults: [world, _self_]\ndata: {batch_size: 3}\n"
    )
    for flags in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)]):
        assert main(["train", *flags, "data=mine", "--cfg", "job"]) == 0
        data = OmegaConf.create(capsys.readouterr().out).data
        assert (data.batch_size, data.clip_seconds) == (3, 2.0)


def test_build_raises_user_error_for_an_unknown_argument() -> None:
    node = DictConfig({"_target_": "lightning.Trainer", "rate": 1})
    with pytest.raises(UserError, match=r"lightning\.Trainer.*rate"):
        build(node)
