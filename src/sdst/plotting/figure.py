"""Canvas and palette of all pictures. Figures are made without pyplot, so drawing leaves no global state behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.files.atomic import atomic_path
from sdst.plotting.fonts import use_fonts_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#2a9d8f", "#e76f51", "#264653", "#e9c46a", "#8d99ae")
"""Teal, orange, dark blue, yellow, grey."""
DOTS_PER_INCH = 120


def make_figure(width: float, height: float) -> Figure:
    """An empty figure with constrained layout.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "pictures need matplotlib, which is not installed; pip install 'sdst[plot]'"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure; the file appears under its name once it is complete.

    Args:
        figure: Figure from :func:`make_figure`.
        path: Image file; its extension selects the format, PNG if there is none.

    Raises:
        UserError: The format is unknown, or the file cannot be written.
    """
    use_fonts_for(figure)
    with atomic_path(path) as temporary:
        try:
            figure.savefig(temporary, dpi=DOTS_PER_INCH, format=Path(path).suffix[1:] or "png")
        except ValueError as error:
            raise UserError(f"{path}: cannot write the picture: {error}") from error


def literal(text: str) -> str:
    """Text that matplotlib draws unchanged: two dollar signs would otherwise enclose a formula."""
    return text.replace("$", r"\$")
