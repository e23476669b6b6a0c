"""The feature files of a folder and its sub-folders, found in one walk."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.features.importers.arrays import SUFFIXES
from sdst.files.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdst.features.importers.arrays import Content

MAPPED_FROM = 8 * 2**20
"""Smallest size in bytes of files that are mapped into memory instead of read."""


@dataclass(frozen=True)
class Member:
    """A file of a folder or archive.

    Attributes:
        source: The folder or archive.
        name: Path inside it, with ``/`` between the parts.
        read: Function that returns the content. For a tar file it works until the next member is asked for.
    """

    source: Path
    name: str
    read: Callable[[], Content]

    @property
    def path(self) -> str:
        """The file, for messages."""
        return f"{self.source}/{self.name}" if self.source.is_dir() else f"{self.source}: {self.name}"


def list_members(folder: Path) -> tuple[list[Member], list[Path]]:
    """The feature files below a folder, and all its other files; both sorted."""
    members, others = [], []
    for path in walk(folder):
        name = path[len(str(folder)) + 1 :]
        if is_features(name):
            members.append(Member(folder, name, _reader(path)))
        else:
            others.append(Path(path))
    return sorted(members, key=lambda member: member.name), sorted(others)


def is_features(name: str) -> bool:
    """Whether a name is one of a feature file, and not of macOS's notes about one."""
    folders, _, file = name.rpartition("/")
    return (
        file.lower().endswith(SUFFIXES) and not file.startswith("._") and "__MACOSX" not in folders.split("/")
    )


def _reader(path: str) -> Callable[[], Content]:
    def content() -> Content:
        try:
            with open(path, "rb") as file:  # ten thousand Path objects take longer than the files
                if os.fstat(file.fileno()).st_size < MAPPED_FROM:
                    return file.read()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error

    return content
