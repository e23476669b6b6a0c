"""An append-only file of named float16 arrays that survives a kill of its writer at any moment.

The first line is a JSON header; every item is a line of JSON (key, shape, checksum, perhaps a note) followed by its
bytes. Only the last item can be incomplete, and opening the journal again cuts it off.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sdst.errors import UserError
from sdst.files.atomic import cannot_write
from sdst.files.locks import lock

if TYPE_CHECKING:
    from collections.abc import KeysView
    from pathlib import Path

    from numpy.typing import NDArray


class Journal:
    """Opens or continues a journal for one writing process.

    Args:
        path: The journal file.
        header: Settings of this run, as JSON values. A journal with another header is not continued.

    Raises:
        UserError: Another process has the journal open, or it was started with another header.
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._path = path
        self._items: dict[str, tuple[int, tuple[int, ...]]] = {}  # key -> (offset of its bytes, shape)
        self._notes: dict[str, str] = {}
        self._file: BinaryIO = path.open("a+b")
        # Unbuffered, because a buffer would keep the bytes a full disk refuses and write them again on close.
        self._appender = path.open("ab", buffering=0)
        try:
            self._lock()
            self._begin(header)
            end = self._file.tell()
            while self._scan_item():
                end = self._file.tell()
            self._file.truncate(end)
        except BaseException:
            self.close()
            raise

    @property
    def keys(self) -> KeysView[str]:
        """The keys of all complete items."""
        return self._items.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of an item."""
        return self._items[key][1]

    def note(self, key: str) -> str:
        """The note of an item, "" without one."""
        return self._notes.get(key, "")

    def read(self, key: str) -> NDArray[np.float16]:
        """The array of an item."""
        start, shape = self._items[key]
        self._file.seek(start)
        return np.frombuffer(self._file.read(_num_bytes(shape)), "<f2").reshape(shape)

    def append(self, key: str, array: NDArray[np.float16], note: str = "") -> None:
        """Add an item, perhaps with a note. Once this returns, a kill of the process cannot lose it.

        Raises:
            UserError: The file cannot be written, e.g. because the disk is full.
        """
        raw = array.astype("<f2", copy=False).tobytes()
        item = {"key": key, "shape": array.shape, "crc32": zlib.crc32(raw)}
        line = _line(item | {"note": note} if note else item)
        start = self._file.seek(0, os.SEEK_END) + len(line)
        self._write(line + raw)
        self._items[key] = (start, array.shape)
        self._notes[key] = note

    def close(self) -> None:
        """Close the file and release its lock."""
        self._appender.close()
        self._file.close()

    def delete(self) -> None:
        """Close and delete the file."""
        self._path.unlink()
        self.close()

    def _lock(self) -> None:
        if not lock(self._file):
            raise UserError(f"{self._path}: another process is writing it; wait until it ends")

    def _begin(self, header: dict[str, Any]) -> None:
        expected = _line(header)
        self._file.seek(0)
        found = self._file.readline()
        if found == expected:
            return
        if not expected.startswith(found):
            raise UserError(
                f"{self._path}: was started with other settings ({_difference(found, header)}); "
                "use those settings, or delete it to start over"
            )
        self._file.truncate(0)  # new, or killed while writing its first line
        self._write(expected)
        self._file.seek(0, os.SEEK_END)

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[self._appender.write(left) :]
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def _scan_item(self) -> bool:
        """Record the next item; False at the end or at an incomplete item."""
        try:
            item = json.loads(self._file.readline())
            key, shape, checksum = item["key"], tuple(item["shape"]), item["crc32"]
            note = str(item.get("note", ""))
        except (ValueError, KeyError, TypeError):
            return False
        start = self._file.tell()
        left = os.fstat(self._file.fileno()).st_size - start
        incomplete = not isinstance(key, str) or not _is_shape(shape) or _num_bytes(shape) > left
        if incomplete or zlib.crc32(self._file.read(_num_bytes(shape))) != checksum:
            return False
        self._items[key] = (start, shape)
        self._notes[key] = note
        return True


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _is_shape(shape: tuple[object, ...]) -> bool:
    return len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)


def _num_bytes(shape: tuple[int, ...]) -> int:
    return 2 * math.prod(shape)


def _difference(found: bytes, header: dict[str, Any]) -> str:
    try:
        old = json.loads(found)
        keys = sorted(key for key in {*old, *header} if old.get(key) != header.get(key))
    except (ValueError, TypeError, AttributeError):
        return "it is not a journal of sdst"
    return ", ".join(f"{key} {old.get(key)!r}, now {header.get(key)!r}" for key in keys)
