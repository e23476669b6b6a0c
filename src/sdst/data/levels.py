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
        count: K.
        source: ``intermediate`` layers, or the ``last`` layer K times.
        stride: Distance between neighbouring levels in layers.
        order: ``ascending`` lets level 1 be the shallowest, ``descending`` the deepest. *Reading*: ascending.
    """

    count: int = 4
    source: str = "intermediate"
    stride: int = 1
    order: str = "ascending"

    def __post_init__(self) -> None:
        if self.count < 1 or self.stride < 1:
            raise UserError(f"levels: count {self.count} and stride {self.stride} must be at least 1")
        if self.source not in ("intermediate", "last"):
            raise UserError(f"levels.source: {self.source!r} is neither intermediate nor last")
        if self.order not in ("ascending", "descending"):
            raise UserError(f"levels.order: {self.order!r} is neither ascending nor descending")

    def choose(self, stored: Sequence[int]) -> list[int]:
        """Layer numbers of levels 1..K out of those stored; the store says so where one is absent."""
        step = self.stride if self.source == "intermediate" else 0
        layers = [max(stored) - step * back for back in reversed(range(self.count))]
        return layers if self.order == "ascending" else layers[::-1]
