"""Checkpoints: weights, plain-dict configuration and the recipe of the features. Nothing in them is executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from sdst.config import build
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

KEY = "sdst"
"""Under this key a Lightning checkpoint holds ``version``, ``config`` and ``recipe``."""
VERSION = 1


def contents(config: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """What :data:`KEY` holds: the resolved configuration and how the features were made."""
    return {"version": VERSION, "config": config, "recipe": recipe}


def load(path: str | Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The model in evaluation mode, the resolved configuration and the feature recipe of a checkpoint.

    Raises:
        UserError: No file, not a checkpoint of this project, or weights that do not fit its configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        # weights_only: a pickle that would run code is refused.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        stored = loaded[KEY]
        weights = {
            name.removeprefix("model."): value
            for name, value in loaded["state_dict"].items()
            if name.startswith("model.")
        }
        version, config, recipe = stored["version"], stored["config"], stored["recipe"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint written by sdst train ({reason})") from error
    if version != VERSION:
        raise UserError(f"{path}: checkpoint version {version}, this program reads {VERSION}")
    model: nn.Module = build_model(config, recipe)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit the stored configuration: {error}") from error
    return model.eval(), config, recipe


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
        OmegaConf.create(config["model"]),
        video_dim=recipe["video_dim"],
        text_dim=recipe["text_dim"],
        levels=config["levels"]["count"],
    )
    return model
