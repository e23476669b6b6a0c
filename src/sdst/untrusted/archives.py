"""Compressed content, of archives and of HDF5: how much it may unpack to, known before it is unpacked."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST_UNPACKED = 20
"""How many times its bytes in a file compressed content may unpack to; features and weights come nowhere near."""
UNPACKED_FREELY = 64 * 2**20
"""Bytes that content may unpack to whatever its bytes in the file, for little of it may be all zeros."""


def most_unpacked(stored: int) -> int:
    """Bytes that ``stored`` compressed bytes may unpack to."""
    return max(MOST_UNPACKED * stored, UNPACKED_FREELY)


def require_backed(path: Path, *, checksums: bool = False) -> None:
    """Refuse an archive that unpacks to more than its bytes account for.

    Args:
        path: The archive.
        checksums: Also read all of it and compare its checksums, which PyTorch does not.

    Raises:
        zipfile.BadZipFile: It does, or is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > most_unpacked(path.stat().st_size):
            raise zipfile.BadZipFile(f"unpacks to {unpacked} bytes")
        if checksums and (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} in it is damaged")
