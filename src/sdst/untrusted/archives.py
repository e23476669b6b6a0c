"""Limits on how much compressed content may unpack to, in archives and HDF5, and checks of an archive's names."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO, Any

MOST_UNPACKED = 20
"""Most unpacked bytes per stored byte; features and weights stay far below."""
UNPACKED_FREELY = 64 * 2**20
"""Unpacked bytes that are always allowed, because a small array may be all zeros, which take almost no stored bytes."""


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
        require_backed_zip(archive, path.stat().st_size)
        if checksums and (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"its entry {damaged} is damaged")


def require_backed_zip(archive: zipfile.ZipFile, stored: int) -> None:
    """Refuse an open zip file of ``stored`` bytes that unpacks to more than these account for.

    Raises:
        zipfile.BadZipFile: It unpacks to too much.
    """
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most_unpacked(stored):
        raise zipfile.BadZipFile(f"unpacks to {unpacked} bytes")


def stays_inside(name: str) -> bool:
    """Whether the name of an archive's member is a path inside the folder where the archive would be unpacked."""
    parts = name.replace("\\", "/").split("/")
    return not name.startswith(("/", "\\")) and ".." not in parts and not parts[0].endswith(":")


class BackedReader(io.RawIOBase):
    """Reads an unpacking stream, and stops when it gives more than its stored bytes account for.

    Args:
        stream: The stream that unpacks.
        stored: Size of the whole archive in bytes.

    Raises:
        ValueError: While reading, once the stream has unpacked to too much.
    """

    def __init__(self, stream: IO[bytes], stored: int) -> None:
        self._stream = stream
        self._left = most_unpacked(stored)

    def readable(self) -> bool:
        """True: the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the stream goes; return the number of bytes."""
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("unpacks to more than its size accounts for")
        buffer[: len(content)] = content
        return len(content)
