"""The files of models that ``sdst push`` writes: a folder, also one of the Hub's cache, or a zip file.

Only files with the names below are read, texts only up to ``MOST_BYTES``, and nothing is unpacked to disk.
"""

from __future__ import annotations

import zipfile
from functools import partial
from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.untrusted.archives import require_backed_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
RECIPE = "recipe.json"
METRICS = "metrics.json"
WORDS = "words.txt"
CARD = "README.md"
PICTURE = "prediction.png"
FILES = (WEIGHTS, CONFIG, RECIPE, METRICS, WORDS, CARD, PICTURE)
"""Names of all files of a shared model."""
READ = (WEIGHTS, CONFIG, RECIPE, WORDS)
"""Names of the files that loading reads."""
MOST_BYTES = 4 * 2**20
"""Largest text file that is read; a large vocabulary has a tenth of it."""
ADVICE = "write it again with sdst push"


def is_shared_model(path: Path) -> bool:
    """Whether a path names a shared model: a zip file, or a folder with a recipe."""
    return path.suffix == ".zip" or (path / RECIPE).is_file()


def read_files(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Name -> content of those of the named files that a folder or zip file has.

    Raises:
        UserError: The path does not exist, a text is too long, or the zip file is damaged, holds anything else or
            unpacks to too much.
    """
    if path.is_dir():
        return {
            name: _bounded(path, name, (path / name).stat().st_size, (path / name).read_bytes)
            for name in names
            if (path / name).is_file()
        }
    if not path.is_file():
        raise UserError(f"{path}: no such model; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            require_backed_zip(archive, path.stat().st_size)
            _require_known(path, archive.namelist())
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            return {
                name: _bounded(path, name, sizes[name], partial(archive.read, name))
                for name in names
                if name in sizes
            }
    except UserError:
        raise
    except Exception as error:  # zipfile raises many types on damaged files
        raise UserError(f"{path}: not a zip file of sdst push ({error}); {ADVICE}") from error


def require_replaceable(names: Iterable[str], target: object) -> None:
    """Refuse to write over anything but an older shared model.

    Args:
        names: Names of the files that are there.
        target: Where the model is to be written, for the message.

    Raises:
        UserError: There are files, and they are not those of a shared model.
    """
    there = set(names) - {".gitattributes"}  # the Hub puts it into every repository
    if there and (RECIPE not in there or there - {*FILES}):
        raise UserError(
            f"{target}: already exists and holds something other than a model of sdst push; choose another name"
        )


def names_in(path: Path) -> list[str]:
    """Names in a folder or zip file; empty if there is none.

    Raises:
        UserError: The file is not a zip file.
    """
    if path.is_dir():
        return [entry.name for entry in path.iterdir()]
    if not path.exists():
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: already exists and is not a zip file; choose another name") from error


def _require_known(path: Path, listed: Sequence[str]) -> None:
    """Refuse a zip file with names that lead elsewhere, or that readers may understand in two ways."""
    for name in listed:
        if name not in FILES or listed.count(name) > 1:
            raise UserError(
                f"{path}: holds {name!r}, which no model of sdst push does, or holds it twice; do not trust it"
            )


def _bounded(path: Path, name: str, size: int, read: Callable[[], bytes]) -> bytes:
    if name != WEIGHTS and size > MOST_BYTES:
        raise UserError(f"{path}: {name} must have at most {MOST_BYTES} bytes, got {size}; {ADVICE}")
    return read()


def text_of(path: Path, name: str, content: bytes) -> str:
    """The text of a file.

    Raises:
        UserError: It is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {name} must be UTF-8 text, got other bytes; {ADVICE}") from error
