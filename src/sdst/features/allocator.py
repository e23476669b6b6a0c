"""Keeping the memory that a step frees, so that the next step is faster."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``malloc.h``."""


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors on a CPU for later ones: a tenth of the time of training and of extraction.

    By default glibc returns it to the system, which clears every page before the next step gets it. Does nothing with
    another C library.
    """
    _call("mallopt", _MMAP_THRESHOLD, 2**30)
    _call("mallopt", _TRIM_THRESHOLD, 2**30)


def return_freed_memory() -> None:
    """Return the memory kept so far to the system."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
