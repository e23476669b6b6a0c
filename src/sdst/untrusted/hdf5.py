"""Strangers' HDF5 files: an array is opened only if it is in the file itself and its stored bytes account for its size.

HDF5 can lead a reader elsewhere (external and soft links, values kept in other files, virtual arrays), and a few
bytes can declare or unpack to any amount of memory. All other code reads feature files through these functions.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from h5py import h5d, h5l

from sdst.errors import UserError
from sdst.untrusted.archives import most_unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MOST_VALUES = 1000
"""Most values in one attribute."""
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError)
"""What h5py raises for damaged structures and for types that NumPy does not know."""


class Item(NamedTuple):
    """A checked array: its shape, and where in the file its values begin if they are in one piece."""

    shape: tuple[int, int, int]
    offset: int | None


def attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes as plain values: text, numbers, truth values, and lists of them.

    Raises:
        UserError: An attribute is damaged, too long, or of another type.
    """
    values = {}
    with _as_user_error(file, "root attributes"):
        names = list(file.attrs)
    for name in names:
        with _as_user_error(file, f"attribute {name!r}"):
            if (count := math.prod(file.attrs.get_id(name).shape)) > MOST_VALUES:
                raise UserError(
                    f"{file.filename}: attribute {name!r} must have at most {MOST_VALUES} values, got {count}; "
                    "write the file again"
                )
            value = file.attrs[name]
            values[name] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        items = values[name] if isinstance(values[name], list) else [values[name]]
        if not all(isinstance(item, str | int | float) for item in items):
            raise UserError(
                f"{file.filename}: attribute {name!r} must be text, numbers or a list of them; write the file again"
            )
    return values


def names(file: h5py.File, key: str) -> list[str]:
    """The names of a group's items, none of which is opened.

    Raises:
        UserError: The group is missing, damaged or empty.
    """
    group = _find(file, key)
    with _as_user_error(file, f"/{key}"):
        found = list(group) if isinstance(group, h5py.Group) else []
    if not found:
        raise UserError(f"{file.filename}: /{key} must be a group with items; write the file again")
    return found


def look_up(file: h5py.File, key: str) -> Item:
    """Check a float16 array of rank 3, without reading its values.

    Raises:
        UserError: The array is missing, empty, of another type or rank, not stored in this file, or larger than its
            stored bytes account for.
    """
    array = _array(file, key)
    with _as_user_error(file, f"/{key}"):
        return Item(array.shape, array.id.get_offset())


def read(file: h5py.File, key: str, item: Item | None = None) -> NDArray[np.float16]:
    """The values of a float16 array of rank 3.

    Args:
        file: The open file.
        key: The array's name.
        item: The result of :func:`look_up` for this open file and name. It makes reading several times as fast
            where the values are in one piece, because HDF5 does not look the array up again.

    Raises:
        UserError: :func:`look_up` refuses the array, or its values cannot be read.
    """
    if item is not None and item.offset is not None:
        return _read_at(file, key, item.offset, item.shape)
    array = _array(file, key)
    with _as_user_error(file, f"/{key}"):
        values: NDArray[np.float16] = array[()]
    return values


def read_bytes(file: h5py.File, key: str) -> bytes:
    """The content of an array of bytes of rank 1, b"" if there is none.

    Raises:
        UserError: It is of another type or rank, not stored in this file, or larger than its stored bytes account for.
    """
    array = _find(file, key)
    if array is None:
        return b""
    with _as_user_error(file, f"/{key}"):
        if not isinstance(array, h5py.Dataset) or array.dtype != np.uint8 or len(array.shape or ()) != 1:
            raise UserError(f"{file.filename}: /{key} must be an array of bytes; write the file again")
        _require_stored(array)
        return bytes(array[()])


def _find(file: h5py.File, key: str) -> h5py.Group | h5py.Dataset | None:
    """The group or array of that name, or None if it is missing.

    Raises:
        UserError: A part of the name is a link to another place or file, or damaged.
    """
    with _as_user_error(file, f"/{key}"):
        parts = key.encode(errors="surrogateescape").split(b"/")  # how h5py returns names that are not UTF-8
        for end in range(1, len(parts) + 1):
            way = b"/".join(parts[:end])
            if not file.id.links.exists(way):
                return None
            if file.id.links.get_info(way).type != h5l.TYPE_HARD:
                raise UserError(
                    f"{file.filename}: /{key} is a link to another place or file, which is never followed; "
                    "copy the features into one file"
                )
        return file[key]


def _array(file: h5py.File, key: str) -> h5py.Dataset:
    """The array of that name, once it is safe to read."""
    array = _find(file, key)
    if array is None:
        raise UserError(f"{file.filename}: no /{key}; write features for all annotated rows")
    with _as_user_error(file, f"/{key}"):
        is_features = isinstance(array, h5py.Dataset) and array.dtype == np.float16
        if not is_features or len(array.shape or ()) != 3 or 0 in array.shape:
            raise UserError(
                f"{file.filename}: /{key} must be a filled float16 array of rank 3; write the file again"
            )
        _require_stored(array)
    return array


def _require_stored(array: h5py.Dataset) -> None:
    """Refuse values that lie in another file, or that unpack to more than their stored bytes account for."""
    layout = array.id.get_create_plist()
    if layout.get_external_count() or layout.get_layout() == h5d.VIRTUAL:
        raise UserError(
            f"{array.file.filename}: {array.name} keeps its values in another file; copy them into one"
        )
    declared = math.prod(array.shape) * array.dtype.itemsize
    if array.chunks is not None:  # HDF5 unpacks whole chunks
        declared = max(declared, math.prod(array.chunks) * array.dtype.itemsize)
    stored = min(array.id.get_storage_size(), array.file.id.get_filesize())
    allowed = most_unpacked(stored) if layout.get_nfilters() else stored
    if declared > allowed:
        raise UserError(
            f"{array.file.filename}: {array.name} declares {declared} bytes of features but stores {stored}; "
            "write the file again"
        )


def _read_at(file: h5py.File, key: str, offset: int, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """The values that begin at a byte of the file."""
    values = np.empty(shape, np.float16)
    left = values.data.cast("B")
    with _as_user_error(file, f"/{key}"):
        while left:
            count = os.preadv(file.id.get_vfd_handle(), [left], offset)
            if count == 0:
                raise OSError("the file ends before its values")
            left, offset = left[count:], offset + count
    return values


@contextmanager
def _as_user_error(file: h5py.File, what: str) -> Iterator[None]:
    """Turn h5py's errors into one that names the file and the part that cannot be read."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file.filename}: {what} cannot be read ({reason}); write the file again") from error
