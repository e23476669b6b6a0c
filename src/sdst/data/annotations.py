"""Annotation files of QVHighlights, Charades-STA and TACoS: one reader; a row's fields say which labels it has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdst.data.jsonlines import read_rows
from sdst.types import Record

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.data.jsonlines import Row

LABELLED_CLIP_SECONDS = 2
"""Length of the clips that carry saliency labels, fixed by the QVHighlights annotation."""
LONGEST_SECONDS = 24 * 3600
"""The longest duration accepted: a longer one is a mistake, or an attempt to exhaust memory."""


@dataclass
class Repairs:
    """Repairs made while reading a file: how many of each kind, and the first row of each. False if there are none."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, Row] = field(default_factory=dict)

    def add(self, kind: str, row: Row, count: int) -> None:
        """Note that ``count`` windows of a row were repaired."""
        if count:
            self.counts[kind] += count
            self.first.setdefault(kind, row)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{kind}: {count} (first at {self.first[kind].place}, qid {self.first[kind].qid!r})"
            for kind, count in self.counts.items()
        )


@dataclass(frozen=True)
class Annotations:
    """A file's records in file order, and the repairs made to them."""

    records: list[Record]
    repairs: Repairs


def read_annotations(path: str | Path) -> Annotations:
    """Read a JSON Lines annotation file of any of the three datasets, with or without labels.

    Windows given as (end, start) are swapped, and windows that reach out of the video are cut to it; both are
    counted. Blanks around a query are removed.

    Raises:
        UserError: The file cannot be read, or a row lacks a field, has a field of the wrong type, or contradicts
            itself.
    """
    repairs = Repairs()
    return Annotations([_to_record(row, repairs) for row in read_rows(path)], repairs)


def _to_record(row: Row, repairs: Repairs) -> Record:
    vid, query = row.text("vid"), row.text("query").strip()
    if not vid or not query:
        raise row.error("'vid' or 'query' is empty; fill in both")
    duration = row.positive_number("duration")
    if duration > LONGEST_SECONDS:
        raise row.error(f"'duration' must be at most a day, got {duration:g} s; give seconds")
    windows = _read_windows(row, duration, repairs) if row.has("relevant_windows") else None
    labels = row.has("relevant_clip_ids"), row.has("saliency_scores")
    if any(labels) and not all(labels):
        raise row.error("has only one of 'relevant_clip_ids' and 'saliency_scores'; give both or neither")
    clip_scores = _read_clip_scores(row, duration) if all(labels) else None
    return Record(row.qid, vid, query, duration, windows, clip_scores)


def _read_windows(row: Row, duration: float, repairs: Repairs) -> NDArray[np.float64]:
    given = row.numbers("relevant_windows", 2)
    if not len(given):
        raise row.error("'relevant_windows' is empty; leave the field out if the row has no labels")
    num_reversed = num_cut = 0
    windows = []
    for start, end in given.tolist():
        first, last = min(start, end), max(start, end)
        window = min(max(first, 0.0), duration), min(max(last, 0.0), duration)
        if window[0] == window[1]:
            raise row.error(
                f"window {[start, end]} has no length inside the {duration:g} s video; correct or remove it"
            )
        num_reversed += start > end
        num_cut += window != (first, last)
        windows.append(window)
    repairs.add("reversed windows swapped", row, num_reversed)
    repairs.add("windows cut to their video", row, num_cut)
    return np.array(sorted(windows))


def _read_clip_scores(row: Row, duration: float) -> NDArray[np.int64]:
    clip_ids, scores = row.integers("relevant_clip_ids"), row.integers("saliency_scores", 3)
    num_clips = int(duration / LABELLED_CLIP_SECONDS)
    if len(clip_ids) != len(scores):
        raise row.error(
            f"{len(clip_ids)} 'relevant_clip_ids' but {len(scores)} 'saliency_scores'; give three scores per clip"
        )
    if len(set(clip_ids.tolist())) != len(clip_ids):
        raise row.error("a clip occurs twice in 'relevant_clip_ids'; keep one of them")
    if ((clip_ids < 0) | (clip_ids >= num_clips)).any():
        raise row.error(f"'relevant_clip_ids' must lie in 0..{num_clips - 1}, the clips of {duration:g} s")
    if ((scores < 0) | (scores > 4)).any():
        raise row.error("'saliency_scores' must lie in 0..4")
    clip_scores = np.zeros((num_clips, 3), dtype=np.int64)
    clip_scores[clip_ids] = scores
    return clip_scores
