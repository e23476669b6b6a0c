"""Which objects the ``_target_`` of a configuration may name: parts of a training, and nothing that acts by itself.

A name is checked before anything is imported, because the import of a module can act: ``wandb.__main__`` is a program.
Checking the package is not enough: ``torch.os.system`` begins with torch, and so do classes that start processes.
"""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from typing import Any

from hydra.utils import get_object
from torch import nn

from sdst.errors import UserError

CALLBACKS = ("lightning.pytorch.callbacks", "sdst.training.callbacks")
LOGGERS = ("lightning.pytorch.loggers", "sdst.training.loggers")
MODULES = {
    "model": ("sdst.models", "sdst.baselines", "torch.nn"),
    "data": ("sdst.data.datamodule",),
    "trainer": (
        *("lightning.Trainer", "lightning.pytorch.Trainer", "lightning.pytorch.trainer.trainer.Trainer"),
        *("lightning.pytorch.strategies", "lightning.pytorch.profilers", *CALLBACKS, *LOGGERS),
    ),
    "callbacks": CALLBACKS,
    "logger": LOGGERS,
}
"""Key of the configuration -> modules, or names, whose classes may be built there."""
FUNCTIONS = (
    "sdst.training.loggers.mlflow.mlflow_logger",
    "sdst.training.loggers.tensorboard.tensorboard_logger",
    "sdst.training.loggers.wandb.wandb_logger",
)
"""Functions that are allowed besides classes."""


def find_target(node: dict[str, Any], place: str) -> Any:
    """Look up the ``_target_`` of a node.

    Args:
        node: Plain values, with interpolations resolved.
        place: Key of the ``_target_``, for the message; its first part decides what may be built.

    Raises:
        UserError: It, or one at any depth below it, names something that a configuration must not build, or has
            another of Hydra's own keys, such as ``_partial_``.
    """
    for key, value in node.items():
        if str(key).startswith("_") and key != "_target_":
            raise UserError(f"{place.removesuffix('_target_')}{key}: not supported; remove it")
        _check_below(value, place)
    target = node.get("_target_")
    allowed = MODULES.get(place.partition(".")[0]) or tuple(
        name for names in MODULES.values() for name in names
    )
    if isinstance(target, str) and _is_below(target, allowed):
        try:
            found = get_object(target)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{place}: {target} cannot be imported ({error}); check its name") from error
        if target in FUNCTIONS or _is_buildable(found, allowed):
            return found
    raise UserError(
        f"{place} must name a class that belongs there, of {', '.join(allowed)}, got {target!r}; correct it"
    )


def _check_below(value: Any, place: str) -> None:
    """Check nested nodes too, because Hydra builds every node with a ``_target_``, also inside lists."""
    if isinstance(value, dict):
        if "_target_" in value:
            find_target(value, place)
        else:
            for item in value.values():
                _check_below(item, place)
    elif isinstance(value, list):
        for item in value:
            _check_below(item, place)


def _is_below(name: str, allowed: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the allowed ones, or lies in one of the allowed modules."""
    hidden = any(part.startswith("_") for part in name.split("."))
    return not hidden and any(f"{name}.".startswith(f"{place}.") for place in allowed)


def _is_buildable(found: Any, allowed: tuple[str, ...]) -> bool:
    """Whether it is a class that such a module defines, not one that the module has imported from elsewhere."""
    if not inspect.isclass(found) or found.__module__.split(".")[0] not in {n.split(".")[0] for n in allowed}:
        return False
    options = is_dataclass(found) and found.__module__.startswith("sdst.models.")
    if options or issubclass(found, nn.Module):
        return True
    # Imported here because Lightning takes seconds, and building a model does not need it.
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy

    return issubclass(found, L.Trainer | L.LightningDataModule | Callback | Logger | Profiler | Strategy)
