"""The report of an import: which annotated videos and queries have features, and which videos have another length."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sdst.data.annotations import clips_of
from sdst.files.atomic import write_atomically
from sdst.spans import count_clips

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdst.data.store import FeatureStore
    from sdst.types import Record

EXIT_INCOMPLETE = 3


@dataclass(frozen=True)
class Coverage:
    """How much of an annotation file a feature file covers.

    Attributes:
        split: Name of the annotation file.
        num_videos: Number of annotated videos.
        num_queries: Number of annotated queries.
        missing_vids: Videos without features.
        missing_qids: Queries without features.
        other_length: (vid, clips, expected clips) of videos more than a clip longer or shorter than annotated.
    """

    split: str
    num_videos: int
    num_queries: int
    missing_vids: list[str]
    missing_qids: list[str]
    other_length: list[tuple[str, int, int]]


def measure_coverage(store: FeatureStore, split: str, records: Sequence[Record]) -> Coverage:
    """Compare a feature file with the records of an annotation file named ``split``."""
    annotated = {record.vid: record for record in records}
    missing_vids, missing_qids = store.missing(annotated, [record.qid for record in records])
    other_length = []
    for vid in sorted(annotated.keys() - set(missing_vids)):
        num_clips = store.num_clips(vid)
        expected = count_clips(clips_of(annotated[vid], store.info.clip_seconds, num_clips), 1.0)
        if abs(num_clips - expected) > 1:
            other_length.append((vid, num_clips, expected))
    return Coverage(split, len(annotated), len(records), missing_vids, missing_qids, other_length)


def report(out: Path, coverages: Sequence[Coverage]) -> int:
    """Print the coverage, list what is missing or has another length, and return the exit status."""
    table = Table("annotations", "videos", "queries", "other length", title=str(out))
    missing: list[dict[str, Any]] = []
    lengths: list[dict[str, Any]] = []
    for cover in coverages:
        num_vids = cover.num_videos - len(cover.missing_vids)
        num_qids = cover.num_queries - len(cover.missing_qids)
        table.add_row(
            cover.split,
            f"{num_vids}/{cover.num_videos}",
            f"{num_qids}/{cover.num_queries}",
            str(len(cover.other_length)),
        )
        missing += [{"split": cover.split, "vid": vid} for vid in cover.missing_vids]
        missing += [{"split": cover.split, "qid": qid} for qid in cover.missing_qids]
        lengths += [
            {"split": cover.split, "vid": vid, "clips": clips, "expected": expected}
            for vid, clips, expected in cover.other_length
        ]
    Console(file=sys.stdout).print(table)
    if not missing and not lengths:
        return 0
    listing = out.with_suffix(".missing.jsonl")
    write_atomically(listing, "".join(json.dumps(row) + "\n" for row in missing + lengths))
    for rows, what in (
        (missing, "videos and queries have no features"),
        (lengths, "videos have another length"),
    ):
        if rows:
            sys.stderr.write(f"{len(rows)} {what}; they are listed in {listing}\n")
    return EXIT_INCOMPLETE
