"""What the ``_target_`` of a configuration may name: classes that training is made of, and nothing that acts.

A prefix alone would not do: ``torch.os.system`` begins with torch, and so do classes that start processes.
"""

from __future__ import annotations

import inspect
from typing import Any

from hydra.utils import get_object
from torch import nn

from sdst.errors import UserError

PACKAGES = ("sdst", "torch", "torchmetrics", "lightning", "wandb")
"""Whose classes they may be: named as theirs, and defined in them."""
FUNCTIONS = ("sdst.training.loggers.wandb_logger",)


def find_target(node: dict[str, Any], place: str) -> Any:
    """What the ``_target_`` of a node names.

    Args:
        node: Plain values, interpolations resolved.
        place: The key of the ``_target_``, for the message.

    Raises:
        UserError: It, or one at any depth below it, names nothing that a configuration may build.
    """
    for value in node.values():
        _check_below(value, place)
    target = node.get("_target_")
    if isinstance(target, str) and target.partition(".")[0] in PACKAGES:
        try:
            found = get_object(target)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{place}: {target} is not there ({error}); check its name") from error
        if target in FUNCTIONS or _is_buildable(found):
            return found
    raise UserError(
        f"{place}: {target!r} is nothing that a configuration may build; name a class of "
        f"{', '.join(PACKAGES)} that training is made of"
    )


def _check_below(value: Any, place: str) -> None:
    """Every node with a ``_target_`` is built by Hydra, also those in lists and among other arguments."""
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
    if issubclass(found, nn.Module):
        return True
    # Here, for Lightning takes seconds to import and a model needs none of it.
    import lightning as L
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy

    return issubclass(found, L.Trainer | L.LightningDataModule | Callback | Logger | Profiler | Strategy)
