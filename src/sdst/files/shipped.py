"""Folders that users edit at the top of the repository, and that a wheel carries inside the package."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def shipped_folder(name: str) -> Path:
    """The repository's folder ``name`` if the package runs from its ``src``, else the copy in the installed package."""
    beside = PACKAGE.parents[1] / name
    return beside if PACKAGE.parent.name == "src" and beside.is_dir() else PACKAGE / name


def conf_folder() -> Path:
    """The folder of ``SDST_CONF`` if it is set, else the shipped ``conf``; it may lack files."""
    return Path(os.environ.get("SDST_CONF") or shipped_folder("conf"))
