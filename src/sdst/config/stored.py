"""Configurations that runs and checkpoints store, read back into the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.compose import explain_plainly
from sdst.config.schema import TrainConfig
from sdst.errors import UserError
from sdst.files.yaml import read_yaml

if TYPE_CHECKING:
    pass


def stored_config(path: Path) -> DictConfig:
    """The configuration of a run as its folder has it, with the defaults of options that are newer than it.

    Raises:
        UserError: The file is damaged or none of ours.
    """
    return as_config(read_yaml(path), path)


def as_config(values: dict[str, Any], source: str | Path) -> DictConfig:
    """A stored configuration, which may come from a stranger, in the schema.

    Raises:
        UserError: It does not fit the schema, or holds interpolations: ours are stored resolved, and others could
            read environment variables.
    """
    if "${" in json.dumps(values, default=str):
        raise UserError(f"{source}: holds an interpolation ${{...}}; no run stores one, do not trust it")
    try:
        config = OmegaConf.merge(OmegaConf.structured(TrainConfig), values)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = f"{error.full_key}: " if isinstance(error, OmegaConfBaseException) and error.full_key else ""
        raise UserError(
            f"{source}: {key}{explain_plainly(error)}; give the configuration of a run"
        ) from error
    assert isinstance(config, DictConfig)
    for key in ("model", "data", "trainer", "logger"):
        if not OmegaConf.is_dict(config._get_node(key)):
            raise UserError(f"{source}: {key} is no mapping; give the configuration of a run")
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{source}: {missing[0]} is missing; give the configuration of a run")
    return config
