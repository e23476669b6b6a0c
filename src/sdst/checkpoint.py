"""Checkpoints: weights, plain-dict configuration and the recipe of the features. Nothing in them is executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

from sdst.config import build
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

KEY = "sdst"
"""Under this key a Lightning checkpoint holds ``version``, ``config`` and ``recipe``."""
VERSION = 1
UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, TypeError, AttributeError)
"""What ``torch.load`` and looking into its result raise on a file that is no checkpoint."""


def contents(config: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """What :data:`KEY` holds: the resolved configuration and how the features were made."""
    return {"version": VERSION, "config": config, "recipe": recipe}


def load(path: str | Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The model in evaluation mode, the resolved configuration and the feature recipe of a checkpoint.

    Raises:
        UserError: No file, not a checkpoint of this project, or weights that do not fit its configuration.
    """
    stored = read(path)
    config, recipe = stored[KEY]["config"], stored[KEY]["recipe"]
    _check_target(config["model"], path)
    model: nn.Module = build_model(config, recipe)
    weights = {name.removeprefix("model."): value for name, value in stored["state_dict"].items()}
    fill(model, weights, path)
    return model.eval(), config, recipe


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file.

    Raises:
        UserError: No file, not a checkpoint of this project, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        # weights_only: a pickle that would run code is refused.
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = loaded[KEY]["version"]
        _ = loaded["state_dict"], loaded[KEY]["config"], loaded[KEY]["recipe"]
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint written by sdst train ({reason})") from error
    if version != VERSION:
        raise UserError(f"{path}: checkpoint version {version}, this program reads {VERSION}")
    return loaded


def fill(module: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load weights that were read from ``path``; all must be there and fit.

    Raises:
        UserError: One does not; names the first.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{path}: weights do not fit the configuration: {first}") from error


def _check_target(node: dict[str, Any], path: str | Path) -> None:
    """Refuse a configuration that would build anything but a model of ours: checkpoints come from strangers."""
    target = str(node.get("_target_"))
    nested = "_target_" in str([value for key, value in node.items() if key != "_target_"])
    try:
        model = get_class(target) if target.startswith("sdst.") and not nested else object
    except (ImportError, ValueError):
        model = object
    if not (issubclass(model, nn.Module) and model.__module__.startswith("sdst.")):
        raise UserError(
            f"{path}: its configuration builds {target}, which is no model of sdst; do not trust it"
        )


def require_same(source: object, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse features, or a backbone to make them with, unlike those that a checkpoint was trained on.

    Args:
        source: What is refused, for the message.
        found: What it says about itself.
        wanted: The same keys from the checkpoint's recipe.

    Raises:
        UserError: Names the first key that differs or that only one of the two has.
    """
    for key in {**wanted, **found}:
        here, trained = (recipe.get(key, "not stated") for recipe in (found, wanted))
        if here != trained:
            raise UserError(
                f"{source}: {key} is {here}, but {trained} in the features that the checkpoint was trained on; "
                "use the same as in training"
            )


def build_model(config: dict[str, Any], recipe: dict[str, Any]) -> nn.Module:
    """The untrained model of a resolved configuration, for features of the given recipe."""
    model: nn.Module = build(
        OmegaConf.create({"model": config["model"]}).model,
        video_dim=recipe["video_dim"],
        text_dim=recipe["text_dim"],
        levels=config["levels"]["count"],
    )
    return model
