"""Folders of test data: real data, which only developers have, and oracles in every clone."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SDST_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data not found at {SHARED}")
FROZEN = Path(__file__).resolve().parents[1] / "data"
"""Oracles in the repository: outputs of official code for invented input."""
