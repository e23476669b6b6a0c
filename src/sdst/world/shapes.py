"""The outlines of the shapes: the share of each pixel that lies inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

STAR_INNER = 0.45  # radius of a star's inner corners


def coverage(shape: str, x: Floats, y: Floats, radius: Floats, tilt: float) -> Floats:
    """Return the share in [0, 1] that a shape covers of pixels at (x, y) from its centre; all arrays broadcast.

    Args:
        shape: One of the grammar's shapes.
        x: Pixels to the right of the centre.
        y: Pixels below the centre.
        radius: Half the shape's size in pixels.
        tilt: Clockwise angle in radians.
    """
    cos, sin = np.cos(tilt) / radius, np.sin(tilt) / radius
    outside = _OUTLINES[shape](x * cos + y * sin, y * cos - x * sin)
    share: Floats = np.clip(0.5 - outside * radius, 0, 1)
    return share


def band(x: Floats, width: float) -> Floats:
    """Return the share in [0, 1] that an upright bar covers of pixels ``x`` pixels to the right of its middle."""
    share: Floats = np.clip(0.5 + width / 2 - np.abs(x), 0, 1)
    return share


# Distance of (u, v), in radii, from the outline of a shape; negative inside. Exact at straight edges, close at corners.


def _disc(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - 1


def _ring(u: Floats, v: Floats) -> Floats:
    return np.abs(np.hypot(u, v) - 0.75) - 0.25


def _square(u: Floats, v: Floats) -> Floats:
    return np.maximum(np.abs(u), np.abs(v)) - 0.85


def _triangle(u: Floats, v: Floats) -> Floats:
    return np.maximum(v - 0.6, np.abs(u) * 0.9 - (v + 1) * 0.45)


def _cross(u: Floats, v: Floats) -> Floats:
    u, v = np.abs(u), np.abs(v)
    outside: Floats = np.maximum(np.maximum(u, v) - 1, np.minimum(u, v) - 0.3)
    return outside


def _star(u: Floats, v: Floats) -> Floats:
    fifth = 2 * np.pi / 5
    # Folded into half of one point of the star: the outer corner is at angle 0, the inner one at half a fifth.
    angle = np.abs((np.arctan2(u, -v) + fifth / 2) % fifth - fifth / 2)
    radius = np.hypot(u, v)
    along, across = radius * np.cos(angle) - 1, radius * np.sin(angle)
    inner_along, inner_across = STAR_INNER * np.cos(fifth / 2) - 1, STAR_INNER * np.sin(fifth / 2)
    length = np.hypot(inner_along, inner_across)
    outside: Floats = (along * inner_across - across * inner_along) / length
    return outside


_OUTLINES = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
}
