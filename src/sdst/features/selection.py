"""Which annotated queries and videos ``sdst extract`` takes, and the file of each video."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.features.writer import require_names
from sdst.files.text import read_text
from sdst.files.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdst.types import Record

Rank = tuple[bool, bool]
"""Rank of a file for a video; the file with the lowest rank is taken."""
VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".qt",
        ".mkv",
        ".webm",
        ".avi",
        ".divx",
        ".mpg",
        ".mpeg",
        ".mpe",
        ".m2v",
        ".vob",
        ".ts",
        ".mts",
        ".m2ts",
        ".flv",
        ".f4v",
        ".wmv",
        ".asf",
        ".3gp",
        ".3g2",
        ".ogv",
        ".ogm",
        ".mxf",
        ".rm",
        ".rmvb",
        ".gif",
    ]
)
"""Extensions of video files, which go before all others."""
OTHER_SUFFIXES = frozenset(
    [
        ".srt",
        ".vtt",
        ".ass",
        ".sub",
        ".txt",
        ".md",
        ".nfo",
        ".description",
        ".json",
        ".jsonl",
        ".xml",
        ".csv",
        ".html",
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".npy",
        ".npz",
        ".pt",
        ".h5",
        ".wav",
        ".mp3",
        ".m4a",
        ".aac",
        ".flac",
        ".ogg",
        ".opus",
        ".part",
        ".ytdl",
        ".tmp",
        ".zip",
        ".gz",
        ".tar",
    ]
)
"""Extensions of what often lies beside videos: subtitles, pictures, features, sound, unfinished downloads."""


def read_records(files: Sequence[Path]) -> list[Record]:
    """All rows of the annotation files, each query once.

    Raises:
        UserError: A file cannot be used, a qid stands for different queries, or a name cannot be stored.
    """
    return unique_records({path: read_annotations(path).records for path in files})


def unique_records(splits: Mapping[Path, Sequence[Record]]) -> list[Record]:
    """The records of several annotation files, each query once.

    Raises:
        UserError: A qid stands for different queries, or a name cannot be stored.
    """
    records: dict[str, Record] = {}
    for path, rows in splits.items():
        require_names(rows, path)
        for record in rows:
            first = records.setdefault(str(record.qid), record)  # names in a feature file are strings
            if (first.vid, first.query) != (record.vid, record.query):
                raise UserError(
                    f"{path}: qid {record.qid!r} stands for another query in another file; use the files separately"
                )
    return list(records.values())


def choose_records(
    records: Sequence[Record], listing: Path | None, shard: tuple[int, int] | None
) -> list[Record]:
    """The records of the chosen videos.

    Args:
        records: All annotated records.
        listing: A ``.failed.jsonl`` file with the videos to keep; None keeps all.
        shard: (index, count) of the shard to keep of these; None keeps all.

    Raises:
        UserError: The listing cannot be read, or no video is left.
    """
    vids = list(dict.fromkeys(record.vid for record in records))
    if listing is not None:
        listed = _read_vids(listing)
        vids = [vid for vid in vids if vid in listed]
    if shard is not None:
        index, count = shard
        vids = vids[index::count]
    if not vids:
        raise UserError("no video is left to extract; check --only, or use fewer shards")
    chosen = set(vids)
    return [record for record in records if record.vid in chosen]


def _read_vids(listing: Path) -> set[str]:
    try:
        return {json.loads(line)["vid"] for line in read_text(listing).splitlines()}
    except UserError:
        raise
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{listing}: not a readable list of videos; give a .failed.jsonl file") from None


def find_videos(
    folder: Path, vids: Iterable[str], name: str = "{vid}"
) -> tuple[dict[str, Path], dict[str, str]]:
    """Find each video's file in a folder and its sub-folders by its name, with any extension or none.

    Files with a known extension go first, then those in the folder itself. Names are compared in Unicode's composed
    form (NFC), because some file systems store letters and accents apart.

    Args:
        folder: Folder of the video files.
        vids: Names of the videos.
        name: Pattern of the file names, e.g. ``{vid}-cam-002``.

    Returns:
        vid -> path of the videos found, and vid -> reason for the others.

    Raises:
        UserError: The folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of the video files")
    files: dict[str, list[tuple[Rank, Path]]] = {}
    for path in map(Path, walk(folder)):
        suffix = path.suffix.lower()
        if suffix not in OTHER_SUFFIXES:
            ranked = (suffix not in VIDEO_SUFFIXES, path.parent != folder), path
            for stem in {_composed(path.stem), _composed(path.name)}:
                files.setdefault(stem, []).append(ranked)
    found, failures = {}, {}
    for vid in vids:
        stem = name.replace("{vid}", vid)
        candidates = files.get(_composed(stem), [])
        match [path for rank, path in candidates if rank == min(candidates)[0]]:
            case [path]:
                found[vid] = path
            case []:
                failures[vid] = f"{folder}: no video file named {stem}"
            case several:
                names = ", ".join(str(path.relative_to(folder)) for path in several)
                failures[vid] = f"{folder}: {names}; keep one of them"
    return found, failures


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
