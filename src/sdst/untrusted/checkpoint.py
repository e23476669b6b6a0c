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
CHECKPOINT = ("a checkpoint of sdst train", "give a best.ckpt or last.ckpt")
"""What :func:`read_checkpoint` expects, and what to do about another file."""


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
        _check_types(loaded, {"epoch": int})
    except Exception as error:  # PyTorch raises many types on damaged files
        raise refused(CHECKPOINT, path, error) from error
    check_contents(loaded, path, CHECKPOINT)
    return loaded


def check_contents(loaded: dict[str, Any], path: str | Path, expected: tuple[str, str]) -> None:
    """Check the types of all that a model is built from: weights, configuration and recipe.

    Args:
        loaded: ``state_dict``, and :data:`KEY` with its content.
        path: The file, for the message.
        expected: What the file should be, and what to do if it is not.

    Raises:
        UserError: Something is missing, of another type, or of another version.
    """
    try:
        version = loaded[KEY]["version"]
        _check_types(loaded, {"state_dict": dict})
        _check_types(loaded["state_dict"], dict.fromkeys(loaded["state_dict"], torch.Tensor))
        _check_types(loaded[KEY], {"config": dict, "recipe": dict})
        _check_types(loaded[KEY]["recipe"], RECIPE)
    except (LookupError, TypeError) as error:
        raise refused(expected, path, error) from error
    if version != VERSION:
        raise UserError(
            f"{path}: expected checkpoint version {VERSION}, got {version}; use the sdst that wrote it"
        )


def refused(expected: tuple[str, str], path: str | Path, error: Exception) -> UserError:
    """The error that says what a file should be, why it is not, and what to do."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path}: not {expected[0]} ({reason}); {expected[1]}")


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
