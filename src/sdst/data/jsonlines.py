"""Files with one query per row, mostly JSON Lines: typed getters, and errors that name file, line and qid."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sdst.errors import UserError
from sdst.files.text import open_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.types import Qid

T = TypeVar("T")

MOST_NAMED = 3
"""Number of rows that a message about several rows names."""
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

    def table(self, key: str) -> NDArray[np.float64]:
        """A list of numbers, or of lists of equal length, as a float64 (N, A) array; axes of length 1 do not count."""
        value = self._get(key)
        try:
            array = np.array(value)
        except ValueError:  # lists of unequal lengths
            array = np.array(None)
        long = [size for size in array.shape[1:] if size != 1]
        if array.dtype.kind not in "iuf" or array.ndim == 0 or array.size == 0 or len(long) > 1:
            raise self.error(f"'{key}' must be a list of numbers, or of lists of equally many numbers")
        if not np.isfinite(array).all():
            raise self.error(f"'{key}' holds NaN or Inf; every number must be finite")
        return array.reshape(len(array), -1).astype(np.float64)

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


def read_rows(path: str | Path, convert: Callable[[Row], T]) -> list[T]:
    """Convert every row of a file; blank lines and a missing last newline are fine.

    Besides JSON Lines, two layouts of a single JSON document are read: a list of rows, and that of ActivityNet Captions
    (see ``_caption_rows``).

    Args:
        path: The file.
        convert: Function that converts a row, or refuses it with ``UserError``.

    Raises:
        UserError: The file cannot be read or has no rows; a row is not a JSON object, or ``convert`` refuses it; a qid
            is missing, repeated, or neither an integer nor a string. One message counts all such rows.
    """
    converted: list[T] = []
    places: dict[Qid, str] = {}
    first: UserError | None = None
    others: list[str] = []
    for place, fields in _read_objects(path):
        try:
            converted.append(convert(_to_row(path, place, fields, places)))
        except UserError as error:
            if first is not None:
                others.append(place)
            first = first or error
    if first is not None:
        raise UserError(f"{first}{_count_others(others)}") from first
    if not converted:
        raise UserError(f"{path}: the file has no rows; give a JSON Lines file with one query per line")
    return converted


def _count_others(places: list[str]) -> str:
    if not places:
        return ""
    named = ", ".join(map(_name, places[:MOST_NAMED])) + (", ..." if len(places) > MOST_NAMED else "")
    return f"; {len(places)} more {'row is' if len(places) == 1 else 'rows are'} refused ({named})"


def _name(place: str) -> str:
    return f"line {place}" if place.isdigit() else place


def _to_row(path: str | Path, within: str, fields: Any, places: dict[Qid, str]) -> Row:
    place = f"{path}:{within}"
    if not isinstance(fields, dict):
        raise UserError(f"{place}: not a JSON object; write one complete object {{...}} per line")
    qid = fields.get("qid")
    if isinstance(qid, bool) or not isinstance(qid, int | str) or not is_unicode(str(qid)):
        raise UserError(f"{place}: 'qid' must be an integer or a string, got {_shorten(qid)}")
    if qid in places:
        raise UserError(f"{place}: qid {qid!r} is also on {places[qid]}; keep one of the two rows")
    places[qid] = _name(within)
    return Row(place, qid, fields)


def _read_objects(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield place (line or entry) and content of every row; the content is None where it is not JSON."""
    with open_text(path) as file:
        # Files that were joined have byte order marks in the middle.
        lines = (line.strip("\ufeff") for line in file)
        numbered: Iterator[tuple[int, str]] = (
            (number, line) for number, line in enumerate(lines, start=1) if line.strip()
        )
        head = next(numbered, None)
        if head is None:
            return
        if _may_be_document(_parse(head[1])):
            rest = list(numbered)
            document = _parse("".join(line for _, line in [head, *rest]))
            if isinstance(document, list):
                yield from ((f"entry {number}", row) for number, row in enumerate(document, start=1))
                return
            if isinstance(document, dict) and "qid" not in document:
                yield from _caption_rows(document)
                return
            numbered = iter(rest)
        for number, line in chain([head], numbered):
            yield str(number), _parse(line)


def _may_be_document(first: Any) -> bool:
    """Whether a file whose first line holds this may be one JSON document instead of JSON Lines."""
    return not isinstance(first, dict) or all(isinstance(value, dict) for value in first.values())


def _caption_rows(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield a row per sentence of ``{vid: {"duration": s, "timestamps": [[s, s], ...], "sentences": [...]}}``.

    This is the layout in which ActivityNet Captions was released (Krishna et al., ICCV 2017). Sentence n of a video
    gets the qid ``{vid}_{n}``, counted from 0.
    """
    for vid, video in document.items():
        fields = video if isinstance(video, dict) else {}
        moments, sentences = fields.get("timestamps"), fields.get("sentences")
        if not isinstance(moments, list) or not isinstance(sentences, list):
            yield f"{vid!r}", None
            continue
        for number, (moment, sentence) in enumerate(zip_longest(moments, sentences)):
            yield (
                f"{vid!r}, sentence {number}",
                {
                    "qid": f"{vid}_{number}",
                    "vid": vid,
                    "query": sentence,
                    "duration": fields.get("duration"),
                    "relevant_windows": [moment],
                },
            )


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def is_unicode(text: str) -> bool:
    """False if JSON escaped half of a character: such text can be neither written nor looked up."""
    return _SURROGATE.search(text) is None


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
