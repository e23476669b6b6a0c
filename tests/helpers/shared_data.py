"""Where the real annotations, predictions and oracles lie on a developer's machine; a user's clone has none."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SDST_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data not found at {SHARED}")
