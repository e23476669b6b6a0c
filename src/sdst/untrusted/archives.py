"""Limits on how much compressed content may unpack to, in archives and HDF5, checked before it is unpacked."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST_UNPACKED = 20
"""Most unpacked bytes per stored byte; features and weights stay far below."""
UNPACKED_FREELY = 64 * 2**20
"""Unpacked bytes that are always allowed, because a little content may be all zeros."""


def most_unpacked(stored: int) -> int:
    """The most bytes that ``stored`` compressed bytes may unpack to."""
    return max(MOST_UNPACKED * stored, UNPACKED_FREELY)


def require_backed(path: Path, *, checksums: bool = False) -> None:
    """Refuse an archive that unpacks to more than its stored bytes account for.

    Args:
        path: The archive.
        checksums: Whether to read all of it and compare its checksums, which PyTorch does not do.

    Raises:
        zipfile.BadZipFile: The archive unpacks to too much, or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > most_unpacked(path.stat().st_size):
            raise zipfile.BadZipFile(f"unpacks to {unpacked} bytes")
        if checksums and (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"its entry {damaged} is damaged")
