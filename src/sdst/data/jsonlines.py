"""JSON Lines files with one query per row: typed getters, and errors that name file, line and qid."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.types import Qid


_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One JSON object of a file whose rows have unique ``qid``; every getter raises ``UserError`` for a wrong value.

    Attributes:
        place: "file:line", the start of every message about this row.
        qid: Id of the row's query.
        fields: The whole object.
    """

    place: str
    qid: Qid
    fields: dict[str, Any]

    def error(self, message: str) -> UserError:
        """An exception with this message about the row."""
        return UserError(f"{self.place}: qid {self.qid!r}: {message}")

    def has(self, key: str) -> bool:
        """Whether the field is present; null counts as absent."""
        return self.fields.get(key) is not None

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        if not isinstance(value, str):
            raise self.error(f"'{key}' must be a string, got {_shorten(value)}")
        if not is_unicode(value):
            raise self.error(f"'{key}' has half of a character, one of \\ud800 to \\udfff alone; correct it")
        return value

    def positive_number(self, key: str) -> float:
        """A finite number above 0."""
        value = self._get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= sys.float_info.max:
            raise self.error(f"'{key}' must be a positive number, got {_shorten(value)}")
        return float(value)

    def numbers(self, key: str, *item_shape: int) -> NDArray[np.float64]:
        """A list of finite numbers, or of nested lists of ``item_shape``, as a float64 (N, *item_shape) array."""
        return self._array(key, item_shape).astype(np.float64, copy=False)

    def integers(self, key: str, *item_shape: int) -> NDArray[np.int64]:
        """A list of whole numbers, or of nested lists of ``item_shape``, as an int64 (N, *item_shape) array."""
        array = self._array(key, item_shape)
        if array.dtype.kind == "f" and (array % 1 != 0).any():
            raise self.error(f"'{key}' holds a fraction; every number must be whole")
        return array.astype(np.int64, copy=False)

    def _array(self, key: str, item_shape: tuple[int, ...]) -> NDArray[Any]:
        """Finite numbers as an array; its type is an integer if all of them are written without a fraction."""
        value = self._get(key)
        if value == []:
            return np.zeros((0, *item_shape))
        try:
            array = np.array(value)
        except ValueError:  # lists of unequal lengths
            array = np.array(None)
        # The kind is checked first because a conversion would accept "1.5" as a number.
        if array.dtype.kind not in "iuf" or array.ndim == 0 or array.shape[1:] != item_shape:
            wanted = "a list of " + "".join(f"lists of {size} " for size in item_shape) + "numbers"
            raise self.error(f"'{key}' must be {wanted}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.error(f"'{key}' holds NaN or Inf; every number must be finite")
        return array

    def _get(self, key: str) -> Any:
        if key not in self.fields:
            raise self.error(f"'{key}' is missing; every row must have it")
        return self.fields[key]


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file; blank lines and a missing last newline are fine.

    Raises:
        UserError: The file cannot be read or has no rows; a line is not a JSON object; a qid is missing, repeated,
            or neither an integer nor a string.
    """
    lines: dict[Qid, int] = {}
    for number, line in _read_lines(path):
        place = f"{path}:{number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise UserError(f"{place}: not a JSON object; write one complete object {{...}} per line")
        qid = fields.get("qid")
        if isinstance(qid, bool) or not isinstance(qid, int | str) or not is_unicode(str(qid)):
            raise UserError(f"{place}: 'qid' must be an integer or a string, got {_shorten(qid)}")
        if qid in lines:
            raise UserError(f"{place}: qid {qid!r} is also on line {lines[qid]}; keep one of the two rows")
        lines[qid] = number
        yield Row(place, qid, fields)
    if not lines:
        raise UserError(f"{path}: the file has no rows; give a JSON Lines file with one query per line")


def _read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; give a JSON Lines file") from error
    except ValueError as error:  # a path with a NUL
        raise UserError(f"{path}: not a valid path ({error}); correct it") from error


def is_unicode(text: str) -> bool:
    """False if JSON escaped half of a character: such text can be neither written nor looked up."""
    return _SURROGATE.search(text) is None


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
