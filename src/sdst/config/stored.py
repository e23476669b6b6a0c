"""Configurations that runs and checkpoints store, read back into the schema, also those of earlier versions."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.compose import explain_plainly
from sdst.config.schema import TrainConfig
from sdst.errors import UserError
from sdst.files.yaml import read_yaml

NEW_TARGETS = {
    "sdst.tracking.wandb_logger": "sdst.training.loggers.wandb.wandb_logger",
    "sdst.training.loggers.wandb_logger": "sdst.training.loggers.wandb.wandb_logger",
}
"""Former name of a ``_target_`` -> its name today."""
NEW_OPTIONS = {
    ("levels", "order"): "direction",
}
"""Section and former name of an option -> its name today."""
LATER_OPTIONS = {
    ("data", "longer"): "refuse",
    ("data", "missing"): "refuse",
    ("data", "repeat"): 1,
    ("data", "domain"): None,
    ("data", "cache"): "none",
    ("data", "pad_to"): 1,
    ("loss", "over_levels"): "sum",
}
"""Section and name of an option that the first version lacked -> the value that gives the first version's runs."""
OF_ATTENTION = {
    "num_points": ("num_points", 4),
    "sampling": ("sampling", ["l", "c", "r"]),
    "cnn_depth": ("cnn_depth", 2),
    "rdsa_dim": ("query_dim", 64),
}
"""Former option of SDST that today is an option of its attention -> its name there, and its default."""
ATTENTIONS: dict[str, dict[str, Any]] = {
    "rdsa": {"_target_": "sdst.models.attention.RDSA"},
    "deformable": {"_target_": "sdst.models.attention.Deformable", "start": "learned"},
    "pure_init": {"_target_": "sdst.models.attention.Deformable", "start": "pure"},
    "mixed_init": {"_target_": "sdst.models.attention.Deformable", "start": "mixed"},
    "standard": {"_target_": "sdst.models.attention.Standard"},
}
"""Former value of ``model.attention`` -> the attention's configuration, without sizes."""
AS_BEFORE: dict[str, dict[str, Any]] = {
    "sdst.models.sdst.SDST": {
        "references": "spread",
        "places": False,
        "denoising_groups": 0,
        "denoising_noise": 1.0,
        "roi_context": 1.0,
    },
    "sdst.baselines.sg_detr.SGDETR": {"second_head": False},
    "sdst.models.attention.RDSA": {"spread": "circle"},
    "sdst.models.attention.Deformable": {"select_from": "first", "with_place": False, "spread": "circle"},
}
"""Class -> the options that it got later, with the values that keep its earlier behaviour."""


def stored_config(path: Path) -> DictConfig:
    """Read the configuration in a run folder; options that are newer than the run have their defaults.

    Raises:
        UserError: The file is damaged, or is not the configuration of a run.
    """
    return as_config(read_yaml(path), path)


def as_config(values: dict[str, Any], source: str | Path) -> DictConfig:
    """Put a stored configuration, which may come from a stranger, into the schema.

    Raises:
        UserError: It does not fit the schema, or holds interpolations: ours are stored resolved, and others could
            read environment variables.
    """
    if "${" in json.dumps(values, default=str):
        raise UserError(
            f"{source}: has an interpolation ${{...}}, which no run stores; do not trust this file"
        )
    try:
        config = OmegaConf.merge(OmegaConf.structured(TrainConfig), _with_new_names(values))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = f"{error.full_key}: " if isinstance(error, OmegaConfBaseException) and error.full_key else ""
        raise UserError(
            f"{source}: {key}{explain_plainly(error)}; give the configuration of a run"
        ) from error
    assert isinstance(config, DictConfig)
    for key in ("model", "data", "trainer", "logger"):
        if not OmegaConf.is_dict(config._get_node(key)):
            raise UserError(f"{source}: {key} must be a mapping; give the configuration of a run")
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{source}: {missing[0]} is missing; give the configuration of a run")
    return config


def _with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a stored configuration in which everything has the name and place of today."""
    new: dict[str, Any] = _with_new_targets(values)
    for (section, old), name in NEW_OPTIONS.items():
        options = new.get(section)
        if isinstance(options, dict) and old in options:
            options[name] = options.pop(old)
    model = new.get("model")
    if isinstance(model, dict):
        if model.get("attention") in [*ATTENTIONS]:
            model = _with_attention(model)
        new["model"] = _with_later_options(model)
    logger = new.get("logger")
    if isinstance(logger, dict) and "_target_" in logger:  # earlier runs had a single logger
        new["logger"] = {"wandb" if logger["_target_"] in NEW_TARGETS.values() else "csv": logger}
    return new


def _with_attention(model: dict[str, Any]) -> dict[str, Any]:
    """A stored model of an earlier version, with the options of its attention in a node of their own."""
    kept = {name: value for name, value in model.items() if name not in OF_ATTENTION}
    attention = dict(ATTENTIONS[model["attention"]])
    used = {"rdsa": tuple(OF_ATTENTION), "standard": ()}.get(model["attention"], ("num_points",))
    attention |= {OF_ATTENTION[name][0]: model[name] for name in used if name in model}
    return kept | {"attention": attention}


def _with_later_options(node: Any) -> Any:
    """A stored node and those below it, with the options that their classes got later."""
    if not isinstance(node, dict):
        return node
    return AS_BEFORE.get(str(node.get("_target_")), {}) | {
        key: _with_later_options(value) for key, value in node.items()
    }


def _without_later_options(node: Any) -> Any:
    """A node and those below it, without later options whose values keep the earlier behaviour."""
    if not isinstance(node, dict):
        return node
    before = AS_BEFORE.get(str(node.get("_target_")), {})
    return {
        key: _without_later_options(value)
        for key, value in node.items()
        if key not in before or value != before[key]
    }


def with_first_names(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a resolved configuration as the first version wrote it, for identities that must not change.

    What the first version could not say, such as a callback or another attention, stays as it is.
    """
    first = copy.deepcopy(values)
    for (section, old), name in NEW_OPTIONS.items():
        first[section][old] = first[section].pop(name)
    first["model"] = _without_later_options(first["model"])
    attention = first["model"].get("attention")
    attention = attention if isinstance(attention, dict) else {}
    sizes = {new for new, _ in OF_ATTENTION.values()}
    kind = {key: value for key, value in attention.items() if key not in sizes}
    if names := [name for name, known in ATTENTIONS.items() if known == kind]:
        first["model"] |= {old: attention.get(new, default) for old, (new, default) in OF_ATTENTION.items()}
        first["model"]["attention"] = names[0]
    if not first["callbacks"]:
        del first["callbacks"]
    for name in ("compile_mode", "init_from"):
        if first[name] is None:
            del first[name]
    for (section, name), value in LATER_OPTIONS.items():
        if name in first[section] and first[section][name] == value:
            del first[section][name]
    return first


def _with_new_targets(value: Any) -> Any:
    """A copy of plain values with every ``_target_`` by its name of today."""
    if isinstance(value, list):
        return [_with_new_targets(item) for item in value]
    if not isinstance(value, dict):
        return value
    new = {key: _with_new_targets(item) for key, item in value.items()}
    target = new.get("_target_")
    return new | {"_target_": NEW_TARGETS.get(target, target)} if isinstance(target, str) else new
