"""Sparse-Dense Side-Tuner for video temporal grounding (ICCV 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdst.version import __version__ as __version__

if TYPE_CHECKING:
    from sdst.inference.grounder import load as load


def __getattr__(name: str) -> Any:
    """Import ``sdst.load`` on first use, because it imports torch and much of the package does not need torch."""
    if name == "load":
        from sdst.inference.grounder import load

        return load
    raise AttributeError(f"module 'sdst' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List ``load`` too, so that completion finds it before its first use."""
    return sorted({*globals(), "load"})
