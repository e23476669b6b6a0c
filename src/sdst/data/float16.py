"""The precision of feature files, float16, and whether all numbers in it are finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdst.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def to_float16(array: ArrayLike, name: str) -> NDArray[np.float16]:
    """Features in the precision of the file.

    Raises:
        UserError: NaN or Inf in float16; ``name`` says where.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below
        data = np.ascontiguousarray(array, dtype=np.float16)
    if not all_finite(data):
        raise UserError(f"{name} holds NaN, Inf or values beyond float16; check its source")
    return data


def all_finite(array: NDArray[np.float16]) -> bool:
    """Whether none is NaN or Inf."""
    # Bit patterns of float16, as unsigned numbers: 0 to 7BFF are finite and 7C00 to 7FFF are not, then the same for
    # negative numbers from 8000 on. Two maxima find what is not several times as fast as np.isfinite.
    return bool(
        array.view(np.int16).max(initial=0) < 0x7C00 and array.view(np.uint16).max(initial=0) < 0xFC00
    )
