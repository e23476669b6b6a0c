"""Where real data lie: on a developer's machine alone, apart from the oracles that are part of every clone."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SDST_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data not found at {SHARED}")
FROZEN = Path(__file__).resolve().parents[1] / "data"
"""Oracles that are part of the repository: what official code computes from invented input."""
