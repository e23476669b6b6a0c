"""Models from checkpoints: weights, a plain configuration, and the recipe of the features they were trained on."""

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
from sdst.models.attention import AttentionOptions
from sdst.training.run_folder import find_checkpoint
from sdst.training.shared_model import read_shared_model
from sdst.untrusted.checkpoint import KEY, VERSION, read_checkpoint
from sdst.untrusted.shared_files import is_shared_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

LARGEST_SIZE = 10_000
"""Upper limit of a model's sizes, such as its width, unless one of its weights is larger."""


def contents(config: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """The value of :data:`KEY` in a checkpoint: the resolved configuration and the recipe of the features."""
    return {"version": VERSION, "config": config, "recipe": recipe}


def load(path: str | Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """The model in evaluation mode, the resolved configuration and the feature recipe of a checkpoint.

    Args:
        path: A checkpoint, a run folder for its best one, or a model of ``sdst push``: a folder, a zip file or
            ``hf://user/name``.

    Raises:
        UserError: The file is missing, not a checkpoint of this project, or its weights do not fit its configuration.
    """
    path = find_checkpoint(path)
    stored = read_shared_model(path) if is_shared_model(path) else read_checkpoint(path)
    recipe = stored[KEY]["recipe"]
    config: Any = OmegaConf.to_container(as_config(stored[KEY]["config"], path))
    _check_target(config["model"], path)
    for layers in ("video_layers", "text_layers"):
        if len(recipe[layers]) != config["levels"]["count"]:
            raise UserError(
                f"{path}: its recipe has {layers} {recipe[layers]}, which do not fit its levels; do not trust it"
            )
    weights = {name.removeprefix("model."): value for name, value in stored["state_dict"].items()}
    _require_as_large(config, recipe, weights, path)
    model: nn.Module = build_model(config, recipe)
    load_weights(model, weights, path)
    return model.eval(), config, recipe


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load all weights of a module, read from ``path``.

    Raises:
        UserError: A weight is missing, does not fit or is not finite; the message names the first.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{path}: weights do not fit the configuration: {first}") from error
    for name, weight in module.state_dict().items():
        if not weight.isfinite().all():
            raise UserError(f"{path}: weight {name} holds NaN or Inf; use another checkpoint")


def begin_with(model: nn.Module, path: str | Path) -> None:
    """Give a model the weights of another run (``init_from``).

    Raises:
        UserError: The file cannot be used, or its weights do not fit the model.
    """
    load_weights(model, load(path)[0].state_dict(), f"init_from={path}")


def _require_as_large(
    config: dict[str, Any], recipe: dict[str, Any], weights: dict[str, Any], path: str | Path
) -> None:
    """Refuse a configuration whose model is larger than the weights, before building it takes memory and time.

    Raises:
        UserError: The model is larger than the weights.
    """
    tensors = [weight for weight in weights.values() if isinstance(weight, torch.Tensor)]
    largest = max([LARGEST_SIZE, *(size for tensor in tensors for size in tensor.shape)])
    sizes = (config["levels"]["count"], recipe["video_dim"], recipe["text_dim"], *_leaves(config["model"]))
    if any(isinstance(size, int) and abs(size) > largest for size in sizes):
        raise UserError(f"{path}: its configuration has sizes larger than any weight; do not trust it")
    with torch.device("meta"):
        described = build_model(config, recipe)
    wanted = sum(parameter.numel() for parameter in described.parameters())
    # If only a few are missing, load_weights names the first.
    if wanted > 2 * sum(tensor.numel() for tensor in tensors):
        raise UserError(
            f"{path}: its configuration describes a larger model than its weights; do not trust it"
        )


def _check_target(node: dict[str, Any], path: str | Path) -> None:
    """Refuse a configuration that builds anything but a model of sdst, because checkpoints may come from strangers."""
    attention = node.get("attention")
    if isinstance(attention, dict):
        _check_class(attention, AttentionOptions, path)
        node = {key: value for key, value in node.items() if key != "attention"}
    _check_class(node, nn.Module, path)


def _check_class(node: dict[str, Any], kind: type, path: str | Path) -> None:
    """Refuse a node that builds anything but a ``kind`` of sdst, or has nodes below it that build something."""
    target = str(node.get("_target_"))
    nested = "_target_" in str([value for key, value in node.items() if key != "_target_"])
    try:
        found = get_class(target) if target.startswith("sdst.") and not nested else object
    except (ImportError, ValueError):
        found = object
    if not (issubclass(found, kind) and found.__module__.startswith("sdst.")):
        raise UserError(
            f"{path}: its configuration must build a model of sdst, got {target}; do not trust it"
        )


def _leaves(value: Any) -> list[Any]:
    """All values at any depth of plain mappings."""
    return [leaf for item in value.values() for leaf in _leaves(item)] if isinstance(value, dict) else [value]


def require_same(source: object, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse features, or a backbone, that differ from those that a checkpoint was trained on.

    Args:
        source: File or object that is checked, for the message.
        found: Its recipe.
        wanted: The same keys of the checkpoint's recipe.

    Raises:
        UserError: A key differs, or only one of the two has it; the message names the first.
    """
    for key in {**wanted, **found}:
        here, trained = (recipe.get(key, "not stated") for recipe in (found, wanted))
        if here != trained:
            raise UserError(
                f"{source}: {key} must be {trained} as in the features of the training, got {here}; "
                "use the same as in training"
            )


def require_unchanged(features: str, recipe: Mapping[str, Any], stored: dict[str, Any]) -> None:
    """Refuse to resume a run with other features than it was started with.

    Args:
        features: The feature file, for the message.
        recipe: Recipe of the features now.
        stored: Content of the run's checkpoint; old checkpoints without a fingerprint are accepted.

    Raises:
        UserError: The fingerprints differ.
    """
    begun = stored[KEY]["recipe"].get("fingerprint", recipe["fingerprint"])
    require_same(features, {"fingerprint": recipe["fingerprint"]}, {"fingerprint": begun})


def build_model(config: dict[str, Any], recipe: dict[str, Any]) -> nn.Module:
    """Build the untrained model of a resolved configuration for features of the given recipe."""
    model: nn.Module = build(
        OmegaConf.create({"model": config["model"]}).model,
        video_dim=recipe["video_dim"],
        text_dim=recipe["text_dim"],
        levels=config["levels"]["count"],
    )
    return model
