"""The run folder: the names of its files, and how they are read."""

from __future__ import annotations

from pathlib import Path

LAST = Path("checkpoints/last.ckpt")
"""Everything that resuming needs, after every epoch."""
BEST = Path("checkpoints/best.ckpt")
"""The weights of the best epoch."""
