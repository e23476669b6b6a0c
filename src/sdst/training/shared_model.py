"""Models that ``sdst push`` wrote, read as data like a checkpoint: weights, configuration, recipe and words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sdst.errors import UserError
from sdst.files.yaml import parse_yaml
from sdst.untrusted.checkpoint import KEY, check_contents, refused
from sdst.untrusted.shared_files import (
    ADVICE,
    CONFIG,
    RECIPE,
    WEIGHTS,
    WORDS,
    is_shared_model,
    read_files,
    text_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SHARED = ("a model of sdst push", ADVICE)
"""What the files should be, and what to do about others."""


def read_shared_model(path: Path) -> dict[str, Any]:
    """Read a model of ``sdst push`` into the same form as a checkpoint, without the state of its training.

    Raises:
        UserError: A file is missing or damaged, or the zip file holds anything else or unpacks to too much.
    """
    found = read_files(path, (WEIGHTS, CONFIG, RECIPE))
    if missing := [name for name in (WEIGHTS, CONFIG, RECIPE) if name not in found]:
        raise UserError(f"{path}: not {SHARED[0]} ({missing[0]} is missing); {SHARED[1]}")
    config = parse_yaml(text_of(path, CONFIG, found[CONFIG]), f"{path}: {CONFIG}")
    try:
        recipe = json.loads(found[RECIPE])
        contents = {"version": recipe["version"], "config": config, "recipe": recipe["recipe"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise refused(SHARED, path, error) from error
    stored = {"state_dict": _tensors(path, found[WEIGHTS]), KEY: contents}
    check_contents(stored, path, SHARED)
    return stored


def read_words(path: Path) -> frozenset[str] | None:
    """The words of the training queries; None if the model, such as a run's checkpoint, does not list them.

    Raises:
        UserError: The list cannot be read.
    """
    if not is_shared_model(path):
        return None
    content = read_files(path, [WORDS]).get(WORDS)
    return None if content is None else frozenset(text_of(path, WORDS, content).split())


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise UserError(
            f"{path}: reading it needs safetensors, which is not installed; pip install 'sdst[hub]'"
        ) from error
    try:
        return dict(load(content))
    except (SafetensorError, ValueError, LookupError, RuntimeError) as error:
        raise refused(SHARED, path, error) from error
