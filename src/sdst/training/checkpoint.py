"""Checkpoints: weights, plain-dict configuration and the recipe of the features. Nothing in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

from sdst.config.build import build
from sdst.config.stored import as_config
from sdst.errors import UserError
from sdst.untrusted.checkpoint import KEY, VERSION, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LARGEST_SIZE = 10_000
"""The sizes of a model, such as its width, are no larger, or those of one of its weights."""


def contents(config: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """What :data:`KEY` holds: the resolved configuration and how the features were made."""
    return {"version": VERSION, "config": config, "recipe": recipe}


def load(path: str | Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The model in evaluation mode, the resolved configuration and the feature recipe of a checkpoint.

    Raises:
        UserError: No file, not a checkpoint of this project, or weights that do not fit its configuration.
    """
    stored = read_checkpoint(path)
    recipe = stored[KEY]["recipe"]
    config: Any = OmegaConf.to_container(as_config(stored[KEY]["config"], path))
    _check_target(config["model"], path)
    for layers in ("video_layers", "text_layers"):
        if len(recipe[layers]) != config["levels"]["count"]:
            raise UserError(
                f"{path}: its recipe has {layers} {recipe[layers]} for other levels; do not trust it"
            )
    weights = {name.removeprefix("model."): value for name, value in stored["state_dict"].items()}
    _require_as_large(config, recipe, weights, path)
    model: nn.Module = build_model(config, recipe)
    load_weights(model, weights, path)
    return model.eval(), config, recipe


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load weights that were read from ``path``; all must be there, fit and be finite.

    Raises:
        UserError: One does not; names the first.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{path}: weights do not fit the configuration: {first}") from error
    for name, weight in module.state_dict().items():
        if not weight.isfinite().all():
            raise UserError(f"{path}: weight {name} holds NaN or Inf; use another checkpoint")


def _require_as_large(
    config: dict[str, Any], recipe: dict[str, Any], weights: dict[str, Any], path: str | Path
) -> None:
    """Refuse a configuration of a larger model than there are weights, before it takes memory and time.

    Raises:
        UserError: It does not fit the weights.
    """
    tensors = [weight for weight in weights.values() if isinstance(weight, torch.Tensor)]
    largest = max([LARGEST_SIZE, *(size for tensor in tensors for size in tensor.shape)])
    sizes = (config["levels"]["count"], recipe["video_dim"], recipe["text_dim"], *config["model"].values())
    if any(isinstance(size, int) and abs(size) > largest for size in sizes):
        raise UserError(f"{path}: its configuration has sizes that no weight has; do not trust it")
    with torch.device("meta"):
        described = build_model(config, recipe)
    wanted = sum(parameter.numel() for parameter in described.parameters())
    if wanted > 2 * sum(
        tensor.numel() for tensor in tensors
    ):  # else `load_weights` can name the weight that is missing
        raise UserError(
            f"{path}: its configuration describes a larger model than its weights; do not trust it"
        )


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


def require_unchanged(features: str, recipe: Mapping[str, Any], stored: dict[str, Any]) -> None:
    """Refuse to continue a run on other features than those it was begun with.

    Args:
        features: The feature file, for the message.
        recipe: Of the features that are there now.
        stored: Content of the run's checkpoint; one from before there were fingerprints is accepted.

    Raises:
        UserError: The fingerprints differ.
    """
    begun = stored[KEY]["recipe"].get("fingerprint", recipe["fingerprint"])
    require_same(features, {"fingerprint": recipe["fingerprint"]}, {"fingerprint": begun})


def build_model(config: dict[str, Any], recipe: dict[str, Any]) -> nn.Module:
    """The untrained model of a resolved configuration, for features of the given recipe."""
    model: nn.Module = build(
        OmegaConf.create({"model": config["model"]}).model,
        video_dim=recipe["video_dim"],
        text_dim=recipe["text_dim"],
        levels=config["levels"]["count"],
    )
    return model
