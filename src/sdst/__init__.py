"""Sparse-Dense Side-Tuner for video temporal grounding (ICCV 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdst.version import __version__ as __version__

if TYPE_CHECKING:
    from sdst.inference.grounder import load as load


def __getattr__(name: str) -> Any:
    """Import ``sdst.load`` when it is first used: it brings torch, which much of the package does without."""
    if name == "load":
        from sdst.inference.grounder import load

        return load
    raise AttributeError(f"module 'sdst' has no attribute '{name}'")
