"""float16, the precision of feature files: conversion, and a fast check for NaN and Inf."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdst.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def to_float16(array: ArrayLike, name: str) -> NDArray[np.float16]:
    """Convert features to the precision of feature files.

    Args:
        array: Features of any shape.
        name: Where they come from, for the message.

    Raises:
        UserError: A value is NaN or Inf, or too large for float16.
    """
    with np.errstate(over="ignore"):  # overflows are refused below
        data = np.ascontiguousarray(array, dtype=np.float16)
    if not all_finite(data):
        raise UserError(f"{name} holds NaN, Inf or values beyond float16; check where it comes from")
    return data


def all_finite(array: NDArray[np.float16]) -> bool:
    """Whether no value is NaN or Inf."""
    # Bit patterns of float16 as unsigned numbers: 0 to 7BFF are finite, 7C00 to 7FFF are not; negative numbers have
    # the same patterns plus 8000. Comparing two maxima is several times as fast as np.isfinite.
    return bool(
        array.view(np.int16).max(initial=0) < 0x7C00 and array.view(np.uint16).max(initial=0) < 0xFC00
    )
