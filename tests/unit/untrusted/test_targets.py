"""Configurations from strangers: what they may build, and which files are read."""

from pathlib import Path
from typing import Any

import hydra.utils
import pytest
from omegaconf import OmegaConf

from sdst.config.build import build
from sdst.config.compose import compose
from sdst.config.stored import as_config, stored_config
from sdst.errors import UserError
from sdst.files.yaml import MOST_BYTES, read_yaml
from sdst.untrusted import targets

FORBIDDEN = [
    "os.system",
    "pathlib.Path.touch",
    "builtins.eval",
    "torch.os.system",  # another package's, behind an allowed name
    "sdst.sweeps.jobs.shutil.rmtree",
    "lightning.pytorch.trainer.trainer.os.remove",
    "torch.load",  # allowed package, but a function
    "torch.hub.load",
    "torch.package.PackageImporter",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",  # a class that starts programs
    "lightning.pytorch.cli.LightningCLI",
    "sdst.files.atomic.write_atomically",
    "sdst.features.journal.Journal",
    "hydra.utils.instantiate",
    "transformers.BertModel",
    "sdst",
    "torch.no_such_thing",
    "torchvision.models.resnet18",
    "",
    "torch.",
    "..",
    "wandb.__main__.cli",
    "torch.utils.model_dump.__main__.main",
    "lightning.pytorch.loggers.wandb.WandbLogger",  # belongs under logger
    "sdst.data.datamodule.GroundingDataModule",
    "torchmetrics.text.BERTScore",
    "torch.nn.modules.module.Module.__init__",
]


@pytest.mark.parametrize("target", FORBIDDEN)
def test_nothing_else_is_built_at_any_depth(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hydra.utils, "instantiate", lambda *_, **__: pytest.fail("something was built"))
    bad: dict[str, Any] = {"_target_": target, "command": "true"}
    good = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    nodes: list[dict[str, Any]] = [
        bad,
        good | {"bias": bad},
        good | {"bias": {"deep": [[bad]]}},
        good | {"bias": good | {"device": bad}},
    ]
    for node in nodes:
        config = OmegaConf.create({"model": node, "name": target})
        with pytest.raises(UserError, match=r"model\._target_"):
            build(config.model)
    hidden = OmegaConf.create({"model": {"_target_": "${name}"}, "name": target})
    with pytest.raises(UserError, match=r"model\._target_"):
        build(hidden.model)


@pytest.mark.parametrize("target", [None, 3, ["os.system"], {"_target_": "os.system"}])
def test_a_target_must_be_a_name(target: object) -> None:
    with pytest.raises(UserError, match="_target_"):
        build(OmegaConf.create({"model": {"_target_": target}}).model)


def test_a_part_of_a_training_is_built() -> None:
    node = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    assert build(OmegaConf.create({"model": node}).model).weight.shape == (3, 2)


@pytest.mark.parametrize("key", ["_partial_", "_args_", "_convert_", "_recursive_"])
def test_hydras_other_keys_are_refused_at_any_depth(key: str) -> None:
    node = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    for bad in (node | {key: True}, {"_target_": "torch.nn.Sequential", "a": {"deep": [node | {key: True}]}}):
        with pytest.raises(UserError, match=rf"{key}: not supported"):
            build(OmegaConf.create({"model": bad}).model)


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("logger", "wandb.__main__.X"),
        ("logger", "lightning.pytorch.loggers.__main__.X"),
        ("profiler", "torchmetrics.text.bert.BERTScore"),
        ("model", "torch.utils.model_dump.__main__.X"),
        ("trainer", "lightning.pytorch.cli.LightningCLI"),
        ("callbacks", "torch.nn.Linear"),
        ("logger", "lightning.pytorch.callbacks.EarlyStopping"),
        ("data", "lightning.pytorch.LightningDataModule"),
    ],
)
def test_a_name_is_refused_before_it_is_imported(
    key: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "get_object", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(UserError, match=rf"{key}\.x\._target_ must name a class that belongs there"):
        build(OmegaConf.create({key: {"x": {"_target_": target}}})[key].x)


# --- stored configurations ---

FILES = {
    "broken": ("model: [", "not the YAML"),
    "a list": ("- 1\n- 2\n", "must be a mapping"),
    "empty": ("", "model must be a mapping"),
    "a repeated key": ("seed: 1\nseed: 2\n", "not the YAML"),
    "a tag that runs code": ("seed: !!python/object/apply:os.system [true]\n", "not the YAML"),
    "laughs": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "an alias"),
    "deep": ("[" * 500 + "]" * 500, "levels"),
    "a long number": (f"seed: {'9' * 5000}\n", "not the YAML"),
    "bytes": (b"\xff\xfe\x00seed", "must be UTF-8 text"),
    "an unknown option": ("sed: 1\n", "sed"),
    "another type": ("seed: many\n", "seed"),
    "an environment variable": ("group: ${oc.env:HOME}\n", "interpolation"),
    "an open interpolation": ("group: '${'\n", "not the YAML"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_no_run_stores_is_refused(tmp_path: Path, kind: str) -> None:
    text, message = FILES[kind]
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        stored_config(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


def test_a_file_too_large_for_a_configuration_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("#" * (MOST_BYTES + 1))
    with pytest.raises(UserError, match="larger than"):
        read_yaml(path)


def test_what_a_run_stores_is_read_back(tmp_path: Path) -> None:
    config = compose(["data=charades", "seed=3", f"run_dir={tmp_path}"])
    OmegaConf.resolve(config)
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(config))
    assert stored_config(path) == as_config(OmegaConf.to_container(config), path) == config
