"""Annotation files of all data sets: one reader; a row's fields say which labels it has.

Every row has ``qid``, ``vid``, ``query`` and ``duration``. Moments are ``relevant_windows``; QVHighlights adds
``relevant_clip_ids`` with ``saliency_scores``; TVSum and YouTube Highlights have ``label`` per clip and
``domain``, as QD-DETR, CG-DETR and Lighthouse released them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdst.data.jsonlines import MOST_NAMED, read_rows
from sdst.errors import UserError
from sdst.spans import count_clips
from sdst.types import Record

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.data.jsonlines import Row

LABELLED_CLIP_SECONDS = 2
"""Length of the clips that carry saliency labels, fixed by the annotation of QVHighlights and TVSum."""
LONGEST_SECONDS = 24 * 3600
"""The longest duration accepted: a longer one is a mistake, or an attempt to exhaust memory."""
TVSUM_RATERS = 20
"""Raters of every video of TVSum."""


@dataclass
class Repairs:
    """Repairs made and oddities found while reading a file: number and first rows of each kind. False if none."""

    counts: Counter[str] = field(default_factory=Counter)
    rows: defaultdict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, row: Row, count: int) -> None:
        """Note a repair or oddity of ``count`` of a row's windows, or of its duration."""
        if count:
            self.counts[kind] += count
            if len(self.rows[kind]) <= MOST_NAMED:  # keeping all rows of a large file would need much memory
                self.rows[kind].append(row)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{kind}: {count} (first at {self.rows[kind][0].place}, {_name_qids(self.rows[kind])})"
            for kind, count in self.counts.items()
        )


def _name_qids(rows: list[Row]) -> str:
    named = ", ".join(repr(row.qid) for row in rows[:MOST_NAMED])
    return f"qid {named}" + (", ..." if len(rows) > MOST_NAMED else "")


@dataclass(frozen=True)
class Annotations:
    """A file's records in file order, and the repairs made to them."""

    records: list[Record]
    repairs: Repairs


def read_annotations(path: str | Path) -> Annotations:
    """Read an annotation file of any data set, with or without labels.

    Windows given as (end, start) are swapped, and windows that extend beyond the video are cut to it; both are
    counted. Windows that have no length inside the video are counted and kept as they stand, because the official
    evaluation counts them too, though no prediction can hit one whose length is 0 (see ``moments_inside``). Blanks
    around a query are removed.

    Raises:
        UserError: The file cannot be read, or rows lack a field, have a field of the wrong type, or contradict
            themselves.
    """
    repairs = Repairs()
    return Annotations(read_rows(path, lambda row: _to_record(row, repairs)), repairs)


def of_domain(records: list[Record], domain: str | None, source: str | Path) -> list[Record]:
    """The records of a domain; all if it is None.

    Raises:
        UserError: ``source`` has no such domain.
    """
    if domain is None:
        return records
    chosen = [record for record in records if record.domain == domain]
    if not chosen:
        known = sorted({record.domain for record in records if record.domain is not None})
        raise UserError(
            f"{source}: has no row of domain {domain!r}; choose from {', '.join(known) or 'none, no row names one'}"
        )
    return chosen


def moments_inside(record: Record) -> NDArray[np.float64]:
    """(G, 2) moments that have a length inside the video, from which a model can learn; G may be 0."""
    if record.windows is None:
        return np.zeros((0, 2))
    start, end = record.windows.clip(0, record.duration).T
    moments: NDArray[np.float64] = record.windows[start < end]
    return moments


def clips_of(record: Record, clip_seconds: float, stored: int | None = None) -> float:
    """Length of a video in clips, not rounded: the number of its labels per clip, or its duration / clip length.

    Args:
        record: The annotation.
        clip_seconds: Length of a clip.
        stored: Number of clips of its features. If that differs from the number of labels by more than one, the
            duration counts.
    """
    if record.clip_labels is not None and (stored is None or abs(stored - len(record.clip_labels)) <= 1):
        return len(record.clip_labels)
    return record.duration / clip_seconds


def label_saliency(labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) target saliency in [0, 1] of (T, A) ``clip_labels``.

    With several raters, who rate 1 to 5 as in TVSum, it is their mean, scaled to [0, 1] as in QD-DETR. With one rater,
    it is the label, 0 or 1; numbers below 0 count as 0.
    """
    mean = labels.mean(axis=1)
    target: NDArray[np.float64] = ((mean - 1) / 4 if labels.shape[1] > 1 else mean).clip(0, 1)
    return target


def _to_record(row: Row, repairs: Repairs) -> Record:
    vid, query = row.text("vid"), row.text("query").strip()
    if not vid or not query:
        raise row.error("'vid' or 'query' is empty; fill in both")
    duration = row.positive_number("duration")
    if duration > LONGEST_SECONDS:
        raise row.error(f"'duration' must be at most a day, got {duration:g} s; give seconds")
    clip_labels = row.table("label") if row.has("label") else None
    has_windows = row.has("relevant_windows") and (
        clip_labels is None or row.fields["relevant_windows"] != []
    )
    windows = _read_windows(row, duration, repairs) if has_windows else None
    labels = row.has("relevant_clip_ids"), row.has("saliency_scores")
    if any(labels) and not all(labels):
        raise row.error("has only one of 'relevant_clip_ids' and 'saliency_scores'; give both or neither")
    clip_scores = _read_clip_scores(row, duration) if all(labels) else None
    if clip_labels is not None:
        duration = _read_duration(row, duration, clip_labels, repairs)
    domain = row.text("domain") if row.has("domain") else None
    return Record(row.qid, vid, query, duration, windows, clip_scores, clip_labels, domain)


def _read_duration(row: Row, duration: float, clip_labels: NDArray[np.float64], repairs: Repairs) -> float:
    """Duration of a row with labels, in seconds: the TVSum files of QD-DETR and Lighthouse count clips of 2 s."""
    num_clips, num_raters = clip_labels.shape
    if num_raters == 1 and clip_labels.max() > 1:
        raise row.error(f"'label' of one rater must be 0 or 1, got {clip_labels.max():g}")
    if num_raters == TVSUM_RATERS and abs(duration - num_clips) <= 1:
        repairs.add("durations in clips of 2 s turned into seconds", row, 1)
        return float(num_clips * LABELLED_CLIP_SECONDS)
    return duration


def _read_windows(row: Row, duration: float, repairs: Repairs) -> NDArray[np.float64]:
    given = row.numbers("relevant_windows", 2)
    if not len(given):
        raise row.error("'relevant_windows' is empty; leave the field out if the row has no labels")
    num_reversed = num_cut = num_empty = num_outside = 0
    windows = []
    for start, end in given.tolist():
        first, last = min(start, end), max(start, end)
        window = min(max(first, 0.0), duration), min(max(last, 0.0), duration)
        num_reversed += start > end
        if window[0] == window[1]:
            num_empty += start == end
            num_outside += start != end
            window = first, last
        num_cut += window != (first, last)
        windows.append(window)
    repairs.add("reversed windows swapped", row, num_reversed)
    repairs.add("windows cut to their video", row, num_cut)
    repairs.add("windows without length, which no prediction can hit", row, num_empty)
    repairs.add("windows outside their video, kept as they stand", row, num_outside)
    return np.array(sorted(windows))


def _read_clip_scores(row: Row, duration: float) -> NDArray[np.int64]:
    clip_ids, scores = row.integers("relevant_clip_ids"), row.integers("saliency_scores", 3)
    num_clips = count_clips(duration, LABELLED_CLIP_SECONDS)
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
