"""Which backbone layers become the refinement levels (Fig. 3, Tab. K, Tab. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass
class Levels:
    """A choice of layers, counted from the last one stored.

    Attributes:
        count: K, how many levels there are.
        source: ``intermediate`` layers, or the ``last`` layer K times, of both towers.
        stride: Distance between neighbouring levels in layers of the video tower (Tab. 4).
        text_stride: The same in the text tower. *Reading*: 1, whatever ``stride`` is. Tab. 4 is about what the
            pooling of eq. 15 makes of shallower layers, and only the video tower is pooled; the text levels are
            always the last K of its layers.
        order: ``ascending`` lets level 1 be the shallowest, ``descending`` the deepest. *Reading*: ascending.
    """

    count: int = 4
    source: str = "intermediate"
    stride: int = 1
    order: str = "ascending"
    text_stride: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "stride", "text_stride"):
            if getattr(self, name) < 1:
                raise UserError(f"levels: {name} {getattr(self, name)} must be at least 1")
        if self.source not in ("intermediate", "last"):
            raise UserError(f"levels.source: {self.source!r} is neither intermediate nor last")
        if self.order not in ("ascending", "descending"):
            raise UserError(f"levels.order: {self.order!r} is neither ascending nor descending")

    def video_layers(self, stored: Sequence[int]) -> list[int]:
        """Layers of the video tower for levels 1..K out of those stored; the store says so where one is absent."""
        return self._choose(stored, self.stride)

    def text_layers(self, stored: Sequence[int]) -> list[int]:
        """The same for the text tower."""
        return self._choose(stored, self.text_stride)

    def _choose(self, stored: Sequence[int], stride: int) -> list[int]:
        step = stride if self.source == "intermediate" else 0
        layers = [max(stored) - step * back for back in reversed(range(self.count))]
        return layers if self.order == "ascending" else layers[::-1]
