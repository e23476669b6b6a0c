"""What of a stranger's HDF5 file is opened at all: its own arrays, as large as the bytes that they have in it.

HDF5 can lead a reader elsewhere (external and soft links, values kept in other files, virtual arrays), and a few
bytes can declare or unpack to any amount of memory. Nothing else in the package looks into a feature file.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from h5py import h5d, h5l

from sdst.errors import UserError
from sdst.untrusted.archives import most_unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MOST_VALUES = 1000
"""Of one attribute."""
DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError)
"""What h5py raises at damaged structures and at types that NumPy does not know."""


def attributes(file: h5py.File) -> dict[str, Any]:
    """The root attributes as plain values: text, numbers, truth values, and lists of them.

    Raises:
        UserError: One is damaged, of another type, or too long.
    """
    values = {}
    with _as_user_error(file, "root attributes"):
        names = list(file.attrs)
    for name in names:
        with _as_user_error(file, f"attribute {name!r}"):
            if math.prod(file.attrs.get_id(name).shape) > MOST_VALUES:
                raise UserError(f"{file.filename}: attribute {name!r} is too long; write the file again")
            value = file.attrs[name]
            values[name] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        items = values[name] if isinstance(values[name], list) else [values[name]]
        if not all(isinstance(item, str | int | float) for item in items):
            raise UserError(
                f"{file.filename}: attribute {name!r} is neither text nor numbers; write the file again"
            )
    return values


def names(file: h5py.File, key: str) -> list[str]:
    """What a group holds, sorted; nothing of it is opened.

    Raises:
        UserError: There is no such group, or it is damaged or empty.
    """
    group = find(file, key)
    with _as_user_error(file, f"/{key}"):
        found = list(group) if isinstance(group, h5py.Group) else []
    if not found:
        raise UserError(f"{file.filename}: /{key} is not a group with items; write the file again")
    return found


def find(file: h5py.File, key: str) -> h5py.Group | h5py.Dataset | None:
    """The group or array of that name, or None where there is nothing.

    Raises:
        UserError: The way there is a link to another place or file, or damaged.
    """
    with _as_user_error(file, f"/{key}"):
        parts = key.encode(errors="surrogateescape").split(b"/")  # as h5py names what is no UTF-8
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


def array(file: h5py.File, key: str) -> h5py.Dataset:
    """A filled float16 array of rank 3, whose values are all in this file.

    Raises:
        UserError: It is not there, is something else, or would take more memory than its bytes account for.
    """
    item = find(file, key)
    if item is None:
        raise UserError(f"{file.filename}: no /{key}; write features for all annotated rows")
    with _as_user_error(file, f"/{key}"):
        is_features = isinstance(item, h5py.Dataset) and item.dtype == np.float16
        if not is_features or len(item.shape or ()) != 3 or 0 in item.shape:
            raise UserError(f"{file.filename}: /{key} is no filled float16 array of rank 3; write it again")
        _require_stored(item)
    return item


def read(item: h5py.Dataset) -> NDArray[np.float16]:
    """Values of an array that :func:`array` gave.

    Raises:
        UserError: They cannot be read.
    """
    with _as_user_error(item, str(item.name)):
        values: NDArray[np.float16] = item[()]
    return values


def place(item: h5py.Dataset) -> int | None:
    """The byte of the file at which the values begin, if they lie there in one piece and as they are."""
    offset: int | None = item.id.get_offset()
    return offset


def read_place(file: h5py.File, key: str, offset: int, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Values of an array whose :func:`place` is known, several times as fast as by HDF5, which looks it up anew.

    Raises:
        UserError: They cannot be read.
    """
    values = np.empty(shape, np.float16)
    left = values.data.cast("B")
    with _as_user_error(file, f"/{key}"):
        while left:
            count = os.preadv(file.id.get_vfd_handle(), [left], offset)
            if count == 0:
                raise OSError("the file ends before it")
            left, offset = left[count:], offset + count
    return values


def _require_stored(item: h5py.Dataset) -> None:
    """Refuse values that are elsewhere, or unpack to more than the bytes that they have here allow."""
    layout = item.id.get_create_plist()
    if layout.get_external_count() or layout.get_layout() == h5d.VIRTUAL:
        raise UserError(
            f"{item.file.filename}: {item.name} has its values in another file; copy them into one"
        )
    declared = math.prod(item.shape) * item.dtype.itemsize
    if item.chunks is not None:  # HDF5 unpacks whole chunks
        declared = max(declared, math.prod(item.chunks) * item.dtype.itemsize)
    stored = min(item.id.get_storage_size(), item.file.id.get_filesize())
    allowed = most_unpacked(stored) if layout.get_nfilters() else stored
    if declared > allowed:
        raise UserError(
            f"{item.file.filename}: {item.name} declares {declared} bytes of features but has {stored} in the file; "
            "write it again"
        )


@contextmanager
def _as_user_error(item: h5py.Group | h5py.Dataset, what: str) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{item.file.filename}: {what} cannot be read ({reason}); write it again") from error
