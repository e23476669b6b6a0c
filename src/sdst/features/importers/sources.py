"""Which files of the given folders and archives belong to which annotated video or query."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.features.importers import layouts
from sdst.features.importers.arrays import SUFFIXES
from sdst.features.importers.members import list_members
from sdst.features.importers.packed import (
    all_parts,
    is_archive,
    is_tar,
    is_zip,
    naming,
    tar_members,
    zip_members,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from sdst.features.importers.members import Member
    from sdst.types import Qid

    Match = tuple[str, Qid, Member]
    """(kind, vid or qid, file)."""

FIELDS = {"video": "vid", "text": "qid"}
"""The annotated field that names a file of each kind."""
OPTIONS = {"video": "--videos and --video-name", "text": "--queries and --query-name"}


@dataclass
class Source:
    """One folder or archive.

    Attributes:
        path: The folder or archive, or the first part of a split one.
        members: Its files that can be read in any order.
        tars: Tar archives, each as its parts, that can only be read from beginning to end.
    """

    path: Path
    members: list[Member] = field(default_factory=list)
    tars: list[tuple[Path, ...]] = field(default_factory=list)


def open_source(path: Path, stack: ExitStack) -> Source:
    """List the feature files of a folder, with its sub-folders and the archives in it, or of an archive.

    Args:
        path: A folder, an archive, or a part of a split archive.
        stack: Keeps zip files open while it is open.

    Raises:
        UserError: The folder or archive is missing, or an archive is damaged or unsafe.
    """
    source = Source(path)
    if path.is_dir():
        try:
            source.members, others = list_members(path)
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be read ({error.strerror}); check the folder"
            ) from error
        archives = [all_parts(other) for other in others if is_archive(other.name)]
    elif path.is_file():
        archives = [all_parts(path)]
    else:
        raise UserError(
            f"{path}: no such folder or archive; give a folder or a .tar, .tar.gz, .tgz or .zip file"
        )
    for parts in archives:
        with naming(parts[0]):
            if is_zip(parts):
                source.members += zip_members(parts, stack)
            elif is_tar(parts):
                source.tars.append(parts)
            else:
                raise UserError(
                    f"{parts[0]}: not a .tar, .tar.gz, .tgz or .zip file; give a folder or such an archive"
                )
    return source


class Names:
    """Finds the annotated video or query that a file is named after.

    Args:
        keys: The vids (``video``) and qids (``text``).
        patterns: Patterns of their file names, e.g. ``qid{qid}``.

    Raises:
        UserError: Two vids or qids share a file name.
    """

    def __init__(self, keys: dict[str, Iterable[Qid]], patterns: dict[str, Sequence[str]]) -> None:
        self._stems = {kind: _stems(FIELDS[kind], keys[kind], patterns[kind]) for kind in FIELDS}
        # Numbers of parts of the patterns' paths; a pattern such as {vid}/features has two.
        self._depths = {kind: {pattern.count("/") + 1 for pattern in patterns[kind]} for kind in FIELDS}

    def find(self, member: Member, kinds: Sequence[str]) -> tuple[str, Qid] | None:
        """The kind and key of a file, or None if nothing annotated has this name.

        Args:
            member: The file.
            kinds: Kinds that its folder or archive may hold.

        Raises:
            UserError: Both a video and a query have this name, and no folder tells them apart.
        """
        parts = unicodedata.normalize("NFC", os.path.splitext(member.name)[0]).split("/")
        found = {
            kind: self._stems[kind][stem]
            for kind in kinds
            for depth in self._depths[kind]
            if (stem := "/".join(parts[-depth:])) in self._stems[kind]
        }
        if len(found) > 1:
            known = layouts.folder_kind(member.path)
            if known is None:
                raise UserError(
                    f"{member.path}: named after a video and a query; give --videos and --queries instead"
                )
            return known, found[known]
        return next(iter(found.items()), None)

    def example(self, kind: str) -> str:
        """A file name that would have been found."""
        return f"{next(iter(self._stems[kind]))}{{{','.join(SUFFIXES)}}}"


def _stems(name: str, keys: Iterable[Qid], patterns: Sequence[str]) -> dict[str, Qid]:
    """File name without extension -> vid or qid."""
    stems: dict[str, Qid] = {}
    for key in dict.fromkeys(keys):
        for pattern in patterns:
            stem = unicodedata.normalize("NFC", pattern.replace(f"{{{name}}}", str(key)))
            if str(stems.setdefault(stem, key)) != str(key):
                option = "--video-name" if name == "vid" else "--query-name"
                raise UserError(
                    f"a file {stem} could be of {name} {stems[stem]!r} or {key!r}; give {option}, e.g. {patterns[0]}"
                )
    return stems


def matches(
    source: Source, names: Names, kinds: Sequence[str], seen: dict[tuple[str, str], str]
) -> Iterator[Match]:
    """The files of a source that are annotated; those of tar archives come last.

    The first ones are spread over the whole source as far as files can be read in any order.

    Args:
        source: A folder or archive.
        names: Finds the video or query of a file.
        kinds: Kinds of files that the source may hold.
        seen: (kind, key) -> path of the files found before; extended.

    Raises:
        UserError: A video or query has two files, or an archive cannot be read.
    """
    listed = [
        (*found, member) for member in source.members if (found := names.find(member, kinds)) is not None
    ]
    listed = _one_data_set(listed)
    for kind, key, member in listed:
        _require_first(seen, kind, key, member)
    return chain(_spread(listed), _in_tars(source, names, kinds, seen))


def _in_tars(
    source: Source, names: Names, kinds: Sequence[str], seen: dict[tuple[str, str], str]
) -> Iterator[Match]:
    # The data set of the videos found so far; archives of other data sets are passed over.
    own: set[tuple[str, str]] = set()
    for parts in sorted(source.tars, key=lambda parts: layouts.folder_kind(f"{parts[0]}/") == "text"):
        data_sets = _data_sets(f"{parts[0]}/")
        if own and data_sets and not own & data_sets:
            continue
        for member in tar_members(parts):
            if (found := names.find(member, kinds)) is not None:
                _require_first(seen, *found, member)
                if found[0] == "video":
                    own |= data_sets
                yield (*found, member)


def _data_sets(path: str) -> set[tuple[str, str]]:
    """The pairs (video folder, query folder) of all layouts of which at least one folder is on the path to a file."""
    found = layouts.places(path)
    return {pair for layout in layouts.LAYOUTS for pair in layout.folders if found.intersection(pair)}


def _require_first(seen: dict[tuple[str, str], str], kind: str, key: Qid, member: Member) -> None:
    if (kind, str(key)) in seen:
        first = seen[kind, str(key)]
        raise UserError(f"{FIELDS[kind]} {key!r} has two files, {first} and {member.path}; keep one of them")
    seen[kind, str(key)] = member.path


def _one_data_set(listed: list[Match]) -> list[Match]:
    """Leave out the folders of other data sets, whose qids may be the same."""
    data_sets = [_data_sets(member.path) for _, _, member in listed]
    videos = Counter(
        pair for row, found in zip(listed, data_sets, strict=True) for pair in found if row[0] == "video"
    )
    if not videos:
        return listed
    own = videos.most_common(1)[0][0]
    return [row for row, found in zip(listed, data_sets, strict=True) if not found or own in found]


def _spread(rows: list[Match], count: int = 64) -> Iterator[Match]:
    """All rows: first ``count`` of each kind that are spread evenly over it, then the rest."""
    first: set[int] = set()
    for kind in FIELDS:
        places = [place for place, row in enumerate(rows) if row[0] == kind]
        first.update(places[number * len(places) // count] for number in range(count) if places)
    yield from (rows[place] for place in sorted(first))
    yield from (row for place, row in enumerate(rows) if place not in first)
