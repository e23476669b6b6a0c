"""Which annotated queries and videos ``sdst extract`` takes, and the file of each video."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.files.text import read_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdst.types import Record

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"}
)
"""Extensions of video files; a folder of videos often holds subtitles and thumbnails too."""


def read_records(files: Sequence[Path]) -> list[Record]:
    """All rows of the annotation files, each query once.

    Raises:
        UserError: A file cannot be used, or a qid stands for different queries.
    """
    records: dict[str, Record] = {}
    for path in files:
        for record in read_annotations(path).records:
            first = records.setdefault(str(record.qid), record)  # names in a feature file are strings
            if (first.vid, first.query) != (record.vid, record.query):
                raise UserError(
                    f"{path}: qid {record.qid!r} stands for another query in another file; extract the files separately"
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
    """Find each video's file in a folder by its name without the extension.

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
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    found, failures = {}, {}
    for vid in vids:
        stem = name.replace("{vid}", vid)
        match files.get(stem, []):
            case [path]:
                found[vid] = path
            case []:
                failures[vid] = f"{folder}: no video file named {stem}"
            case several:
                failures[vid] = f"{folder}: {', '.join(path.name for path in several)}; keep one of them"
    return found, failures
