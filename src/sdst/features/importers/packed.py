"""Archives read as they are: nothing is unpacked to disk, and a tar archive is read once from beginning to end."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from sdst.errors import UserError
from sdst.features.importers.members import Member, is_features
from sdst.untrusted.archives import BackedReader, require_backed_zip, stays_inside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import ExitStack
    from pathlib import Path

ARCHIVE = re.compile(r".+\.(tar|tar\.gz|tgz|zip)$", re.IGNORECASE)
PART = re.compile(r"(?P<whole>.+?)[._-]?(?:part[._-]?)?(?P<number>[a-z]{2}|\d{2,3})$", re.IGNORECASE)
"""Name of a part of a split archive, such as ``X.tar.gz.aa``, ``X.tar.01`` or ``X.zip.part-aa``."""
LARGEST = 2 * 2**30
"""Largest member of an archive, in bytes; the longest video of TACoS with all tokens takes a ninth of it."""
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error)
"""What the archive libraries raise for damaged or unsupported archives."""


def is_archive(name: str) -> bool:
    """Whether a file name is one of an archive, or of the first part of one."""
    part = PART.match(name)
    return bool(ARCHIVE.match(name) or (part and ARCHIVE.match(part["whole"]) and _is_first(part)))


def _is_first(part: re.Match[str]) -> bool:
    return re.fullmatch("aa|0+1?", part["number"].lower()) is not None


def all_parts(path: Path) -> tuple[Path, ...]:
    """A whole archive alone, or all parts of one that was split, in order.

    Raises:
        UserError: A part is missing between others.
    """
    match = PART.match(path.name)
    if ARCHIVE.match(path.name) or match is None or not (ARCHIVE.match(match["whole"]) or _is_first(match)):
        return (path,)
    start = path.name[: match.start("number")]
    width = len(match["number"])
    numbers = sorted(
        other.name[len(start) :]
        for other in path.parent.iterdir()
        if other.name.startswith(start)
        and len(other.name) == len(start) + width
        and PART.match(other.name)
        and other.name[len(start) :].isdigit() == match["number"].isdigit()
    )
    places = [_place(number) for number in numbers]
    missing = sorted(set(range(places[0], places[-1] + 1)) - set(places))
    if missing or places[0] > (1 if match["number"].isdigit() else 0):
        raise UserError(
            f"{path.parent / start}*: parts {', '.join(numbers)} are there, but not all from the first on; "
            "copy the missing parts beside them"
        )
    return tuple(path.parent / f"{start}{number}" for number in numbers)


def _place(number: str) -> int:
    if number.isdigit():
        return int(number)
    first, second = (ord(letter) - ord("a") for letter in number.lower())
    return 26 * first + second


class _Parts(io.RawIOBase):
    """The parts of a split file as one file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [path.open("rb") for path in paths]
        self._ends: list[int] = []
        for path in paths:
            self._ends.append(path.stat().st_size + (self._ends[-1] if self._ends else 0))
        self.size = self._ends[-1]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        place = next((place for place, end in enumerate(self._ends) if self._position < end), None)
        if place is None:
            return 0
        file, begin = self._files[place], self._ends[place - 1] if place else 0
        file.seek(self._position - begin)
        count = file.readinto(memoryview(buffer)[: self._ends[place] - self._position])
        self._position += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


class _Entry(tarfile.TarInfo):
    """A member of an archive that must end with its end mark; plain tarfile takes damage between members for it."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise tarfile.ReadError("it stops before its end mark") from error


def tar_members(parts: Sequence[Path]) -> Iterator[Member]:
    """The feature files of a tar archive in one pass.

    Raises:
        UserError: The archive is damaged, cut off or unsafe.
    """
    first = parts[0]
    with naming(first), _Parts(parts) as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        buffered = io.BufferedReader(raw, 2**20)
        stream: Any = gzip.GzipFile(fileobj=buffered) if zipped else buffered
        backed = io.BufferedReader(BackedReader(stream, raw.size), 2**20)
        with tarfile.open(fileobj=backed, mode="r|", tarinfo=_Entry) as archive:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # would keep every header in memory
                if entry.isdir():
                    continue
                _require_plain(first, entry.name, entry.isreg() and not entry.issparse())
                if is_features(entry.name):
                    file = archive.extractfile(entry)
                    assert file is not None  # a regular file
                    yield Member(first, _tidy(entry.name), _limited(first, entry, file.read))
        while backed.read(2**20):  # the checksum of a gzip file stands at its end
            pass


def _limited(path: Path, entry: tarfile.TarInfo, read: Callable[[], bytes]) -> Callable[[], bytes]:
    def content() -> bytes:
        if entry.size > LARGEST:
            raise UserError(
                f"{path}: {entry.name} has {entry.size} bytes, more than any feature file; check it"
            )
        with naming(path):
            return read()

    return content


def is_zip(parts: Sequence[Path]) -> bool:
    """Whether a file, in its parts, is a zip file."""
    with _Parts(parts) as raw:
        return raw.read(4) in {b"PK\x03\x04", b"PK\x05\x06"}


def is_tar(parts: Sequence[Path]) -> bool:
    """Whether a file, in its parts, may be a tar file, also a compressed one."""
    with _Parts(parts) as raw:
        start = raw.read(512)
    return start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar" or parts[0].suffix.lower() == ".tar"


def zip_members(parts: Sequence[Path], stack: ExitStack) -> list[Member]:
    """The feature files of a zip file, which stays open while ``stack`` is.

    Raises:
        UserError: A member lies outside the archive or is a link.
        zipfile.BadZipFile: The archive is damaged or unpacks to too much.
    """
    path, raw = parts[0], stack.enter_context(_Parts(parts))
    archive = stack.enter_context(zipfile.ZipFile(io.BufferedReader(raw, 2**16)))
    require_backed_zip(archive, raw.size)
    # In an archive that is cut off, zipfile takes the end of the .npz file before the cut for its own.
    if archive.infolist() and min(entry.header_offset for entry in archive.infolist()) > 0:
        raise zipfile.BadZipFile("its list of contents is missing")
    members = []
    for entry in archive.infolist():
        if entry.is_dir():
            continue
        kind = stat.S_IFMT(entry.external_attr >> 16)
        _require_plain(path, entry.filename, kind in {0, stat.S_IFREG})
        if is_features(entry.filename):
            members.append(Member(path, _tidy(entry.filename), _unzip(archive, entry, path)))
    return members


def _unzip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Callable[[], bytes]:
    def content() -> bytes:
        if entry.file_size > LARGEST:
            raise UserError(
                f"{path}: {entry.filename} has {entry.file_size} bytes, more than any feature file"
            )
        with naming(path):
            return archive.read(entry)

    return content


def _require_plain(path: Path, name: str, regular: bool) -> None:
    if not stays_inside(name):
        raise UserError(f"{path}: its member {name!r} lies outside the archive; do not trust this archive")
    if not regular:
        raise UserError(
            f"{path}: its member {name!r} is a link or device, expected files; pack the files themselves"
        )


def _tidy(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what the archive libraries raise into an error that names the archive."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: damaged, cut off or unsafe archive ({reason}); download it again"
        ) from error
