"""Checkpoint files, read as data: weights and plain values, checked by type. No code in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdst.errors import UserError
from sdst.untrusted.archives import require_backed

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "sdst"
"""Key of a Lightning checkpoint that holds ``version``, ``config`` and ``recipe``."""
VERSION = 1
RECIPE: dict[str, type] = {
    "backbone": str,
    "pooling": str,
    "video_layers": list,
    "text_layers": list,
    "video_dim": int,
    "text_dim": int,
    "clip_seconds": float,
    "simulated": bool,
    "max_clips": int,
}
"""Required recipe keys and their types."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file.

    Raises:
        UserError: The file is missing, damaged, of another version, or not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; check the path")
    try:
        require_backed(path, checksums=True)
        # weights_only refuses a pickle that would run code.
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = loaded[KEY]["version"]
        _check_types(loaded, {"state_dict": dict, "epoch": int})
        _check_types(loaded["state_dict"], dict.fromkeys(loaded["state_dict"], torch.Tensor))
        _check_types(loaded[KEY], {"config": dict, "recipe": dict})
        _check_types(loaded[KEY]["recipe"], RECIPE)
    except Exception as error:  # PyTorch raises many types on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint of sdst train ({reason}); give a best.ckpt or last.ckpt"
        ) from error
    if version != VERSION:
        raise UserError(
            f"{path}: expected checkpoint version {VERSION}, got {version}; use the sdst that wrote it"
        )
    return loaded


def _check_types(values: dict[Any, Any], wanted: Mapping[Any, type]) -> None:
    """Refuse a mapping with a value of another type; ``list`` means a list of whole numbers."""
    for key, kind in wanted.items():
        items = values[key] if isinstance(values[key], list) else []
        if (
            not isinstance(key, str)
            or not isinstance(values[key], kind)
            or not all(type(i) is int for i in items)
        ):
            raise TypeError(f"{key} is {type(values[key]).__name__}")
