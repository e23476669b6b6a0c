"""Composing a run's configuration from ``conf/`` and overrides, and explaining what Hydra refuses."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sdst
from sdst.config.schema import TrainConfig
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def conf_dir() -> Path:
    """The ``conf`` folder beside ``src``; ``SDST_CONF`` names another.

    Raises:
        UserError: It is not there, as after an install that is not editable.
    """
    folder = Path(os.environ.get("SDST_CONF", Path(sdst.__file__).parents[2] / "conf"))
    if not (folder / "train.yaml").is_file():
        raise UserError(
            f"{folder}: no train.yaml here; install the cloned repository with pip install -e . or set SDST_CONF"
        )
    return folder


def register_schema() -> None:
    """Make the schema known to Hydra, as ``schema`` in the defaults list of train.yaml."""
    ConfigStore.instance().store("schema", node=TrainConfig)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that ``sdst train`` would use with these overrides; for tests and notebooks."""
    register_schema()
    with hydra.initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def quoted(value: Any) -> str:
    """A value in Hydra's override grammar, whatever characters it has."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def explain(error: HydraException | OmegaConfBaseException) -> UserError:
    """One line for an error in the overrides or files, with the nearest option where one is unknown."""
    message = explain_plainly(error)
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown is None:
        return UserError(message)
    key = unknown[1]
    known = list(_keys(OmegaConf.to_container(compose()), ""))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "sdst train --cfg job shows all options"
    return UserError(f"unknown override '{key}'; {hint}")


def explain_plainly(error: Exception) -> str:
    """What an error of OmegaConf says, in one line without its listing of types."""
    return " ".join(str(error).split()).split(" full_key:")[0]


def _keys(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
