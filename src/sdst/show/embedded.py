"""What makes a page one safe file: its sources, its data, and hashes for its content security policy."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any


def embed(data: dict[str, Any]) -> str:
    """JSON for a script element, escaped so that its texts cannot end the element or start a comment."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def csp_hash(source: str) -> str:
    """Hash of an inline style or script for a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def page_file(name: str) -> str:
    """Content of one of the page's source files."""
    return resources.files("sdst.show").joinpath(name).read_text(encoding="utf-8")
