"""Checkpoint files, read as data: weights and plain values, checked by type. Nothing in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdst.errors import UserError
from sdst.untrusted.archives import require_backed

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = "sdst"
"""Under this key a Lightning checkpoint holds ``version``, ``config`` and ``recipe``."""
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
"""What every recipe tells, and its type."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file.

    Raises:
        UserError: No file, not a checkpoint of this project, damaged, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        require_backed(path, checksums=True)
        # weights_only: a pickle that would run code is refused.
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = loaded[KEY]["version"]
        _check_types(loaded, {"state_dict": dict, "epoch": int})
        _check_types(loaded["state_dict"], dict.fromkeys(loaded["state_dict"], torch.Tensor))
        _check_types(loaded[KEY], {"config": dict, "recipe": dict})
        _check_types(loaded[KEY]["recipe"], RECIPE)
    except Exception as error:  # whatever PyTorch stumbles over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a checkpoint written by sdst train ({reason})") from error
    if version != VERSION:
        raise UserError(f"{path}: checkpoint version {version}, this program reads {VERSION}")
    return loaded


def _check_types(values: dict[Any, Any], wanted: Mapping[Any, type]) -> None:
    """Refuse a mapping with a value of another type; ``list`` stands for a list of whole numbers."""
    for key, kind in wanted.items():
        items = values[key] if isinstance(values[key], list) else []
        if (
            not isinstance(key, str)
            or not isinstance(values[key], kind)
            or not all(type(i) is int for i in items)
        ):
            raise TypeError(f"{key} is {type(values[key]).__name__}")
