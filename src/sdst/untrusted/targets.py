"""Which objects the ``_target_`` of a configuration may name: parts of a training, and nothing that acts by itself.

Checking the prefix is not enough: ``torch.os.system`` begins with torch, and so do classes that start processes.
"""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from typing import Any

from hydra.utils import get_object
from torch import nn

from sdst.errors import UserError

PACKAGES = ("sdst", "torch", "torchmetrics", "lightning", "wandb")
"""Packages that must both hold the name and define the class."""
FUNCTIONS = ("sdst.training.loggers.wandb_logger",)
"""Functions that are allowed besides classes."""


def find_target(node: dict[str, Any], place: str) -> Any:
    """Look up the ``_target_`` of a node.

    Args:
        node: Plain values, with interpolations resolved.
        place: Key of the ``_target_``, for the message.

    Raises:
        UserError: It, or one at any depth below it, names something that a configuration must not build.
    """
    for value in node.values():
        _check_below(value, place)
    target = node.get("_target_")
    if isinstance(target, str) and target.partition(".")[0] in PACKAGES:
        try:
            found = get_object(target)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{place}: {target} cannot be imported ({error}); check its name") from error
        if target in FUNCTIONS or _is_buildable(found):
            return found
    raise UserError(
        f"{place} must name a model or its parts, a data module, trainer, callback, logger, profiler or strategy of "
        f"{', '.join(PACKAGES)}, got {target!r}"
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


def _is_buildable(found: Any) -> bool:
    if not inspect.isclass(found) or found.__module__.split(".")[0] not in PACKAGES:
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
