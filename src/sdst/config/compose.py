"""Composing a run's configuration from ``conf/`` and overrides, and explaining what Hydra refuses."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.schema import TrainConfig
from sdst.errors import UserError
from sdst.files.shipped import shipped_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Hydra merges conf/hydra/launcher/X.yaml onto the plugin's options of the same name, which checks names and types, and
# warns that it does. The filter is set at import because a launcher's processes compose too.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


def conf_dir() -> Path:
    """The folder of ``SDST_CONF`` if it is set, else the repository's ``conf``, or the one in the installed package.

    Raises:
        UserError: It holds no train.yaml.
    """
    folder = Path(os.environ.get("SDST_CONF") or shipped_folder("conf"))
    if not (folder / "train.yaml").is_file():
        raise UserError(
            f"{folder} must hold train.yaml, which is missing; set SDST_CONF to sdst's conf folder"
        )
    return folder


def register_schema() -> None:
    """Register the schema with Hydra as ``schema``, which the defaults list of train.yaml names."""
    ConfigStore.instance().store("schema", node=TrainConfig)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the configuration that ``sdst train`` uses with these overrides."""
    register_schema()
    with hydra.initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def quoted(value: Any) -> str:
    """Write a value in Hydra's override grammar; it may have any characters."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def explain(error: HydraException | OmegaConfBaseException) -> UserError:
    """Turn an error in overrides or files into one line, which suggests the nearest option if one is unknown."""
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
    """The message of an OmegaConf error in one line, without its list of types."""
    return " ".join(str(error).split()).split(" full_key:")[0]


def _keys(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
