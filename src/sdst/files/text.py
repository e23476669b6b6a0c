"""Text that users bring: UTF-8 with or without a byte order mark. Other formats are recognised, named and refused."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD_BYTES = 64
"""Number of bytes at the start of a file that decide its format."""
FORMATS = (
    (b"\xff\xfe\x00\x00", "UTF-32 text", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"\x1f\x8b", "gzip", "unpack it with gunzip"),
    (b"PK\x03\x04", "a zip archive", "unpack it with unzip"),
    (b"PK\x05\x06", "an empty zip archive", "download it again"),
    (b"BZh", "bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "xz", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it"),
    (b"\x89HDF", "HDF5", "give a text file"),
    (
        b"version https://git-lfs.github.com/spec",
        "a Git LFS pointer",
        "fetch its content with 'git lfs pull'",
    ),
    (b"<!DOCTYPE html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
)
"""First bytes of a file, what it is, and what the user can do."""


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """Open a text file, without its byte order mark; pipes are read too.

    Raises:
        UserError: The file cannot be read or is not UTF-8 text, which may be noticed only while it is read.
    """
    if "\0" in str(path):
        raise UserError(f"{str(path)!r}: must be a valid path, but it has a null character; correct it")
    try:
        with open(path, "rb") as file:
            head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
            for start, name, advice in FORMATS:
                if head.startswith(start):
                    raise UserError(f"{path}: must be UTF-8 text, got {name}; {advice}")
            if head[1:2] == b"\0" or head[:1] == b"\0":  # ASCII in two bytes a character, without a mark
                raise UserError(f"{path}: must be UTF-8 text, got UTF-16 or binary; save it as UTF-8")
            with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
                yield text
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: must be UTF-8 text, got other bytes; save it as UTF-8") from error


def read_text(path: str | Path) -> str:
    """The whole text of a file, as ``open_text`` reads it.

    Raises:
        UserError: The file cannot be read or is not UTF-8 text.
    """
    with open_text(path) as file:
        return file.read()


def encodable(text: str) -> str:
    """The text with halves of characters escaped: JSON and file names may have them, but UTF-8 cannot encode them."""
    return text.encode("utf-8", "backslashreplace").decode()
