"""Checks that all models share: ranges of their options, and the number of levels of the features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def require_at_least(least: int, **sizes: int) -> None:
    """Refuse an option ``model.NAME`` below ``least``."""
    for name, size in sizes.items():
        if size < least:
            raise UserError(f"model.{name} must be at least {least}, got {size}")


def require_positive(**values: float) -> None:
    """Refuse an option ``model.NAME`` that is not a positive finite number."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"model.{name} must be finite and positive, got {value}")


def require_one_of(choices: Sequence[str], **values: str) -> None:
    """Refuse an option ``model.NAME`` that is none of the choices."""
    for name, value in values.items():
        if value not in choices:
            raise UserError(f"model.{name} must be one of {', '.join(choices)}, got {value!r}")


def require_probabilities(**probabilities: float) -> None:
    """Refuse an option ``model.NAME`` outside [0, 1)."""
    for name, probability in probabilities.items():
        if not 0 <= probability < 1:
            raise UserError(f"model.{name} must be in [0, 1), got {probability}")


def require_heads(dim: int, heads: int) -> None:
    """Refuse a width that is odd (sine and cosine each need half of it) or not a multiple of ``heads``."""
    require_at_least(1, dim=dim, heads=heads)
    if dim % heads or dim % 2:
        raise UserError(f"model.dim must be even and a multiple of model.heads = {heads}, got {dim}")


def check_levels(levels: int, **features: Tensor) -> None:
    """Raise ``ValueError`` for features (B, K, ...) whose K is not ``levels``."""
    for name, feature in features.items():
        if feature.shape[1] != levels:
            raise ValueError(f"{name} has {feature.shape[1]} levels but the model was built for {levels}")
