"""Compare the lengths of imported features with the annotations: clips with durations, tokens with words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.spans import count_clips

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdst.types import Qid, Record

LIKELY_CLIP_SECONDS = (2.0, 1.0, 0.5, 4.0, 8.0, 16 / 30, 32 / 30, 64 / 30, 1.5, 2.5, 3.0, 5.0, 10.0, 0.25)
"""Clip lengths in use, the usual ones first."""


def fits_duration(num_clips: int, duration: float, clip_seconds: float) -> bool:
    """Whether features are at most one clip longer or shorter than their video."""
    return abs(num_clips - count_clips(duration, clip_seconds)) <= 1


def choose_clip_seconds(
    videos: Sequence[tuple[Qid, int, tuple[int, ...]]],
    durations: Mapping[str, float],
    choices: Sequence[float],
) -> float:
    """The clip length that fits most of some videos.

    Args:
        videos: (vid, number of clips, shape of its array) of some videos.
        durations: vid -> annotated seconds.
        choices: Clip lengths to choose from, the preferred one first.

    Raises:
        UserError: None fits any video, but another clip length or another order of axes fits them all.
    """
    lengths = [(num_clips, durations[str(vid)]) for vid, num_clips, _ in videos]
    counts = {choice: sum(fits_duration(*length, choice) for length in lengths) for choice in choices}
    best = max(choices, key=counts.__getitem__)  # the first of several
    if counts[best]:
        return best
    vid, num_clips, shape = videos[0]
    seconds = durations[str(vid)]
    found = f"{vid} has {num_clips} clips for {seconds:g} s (shape {shape})"
    expected = count_clips(seconds, best)
    if all(len(shape) > 1 and fits_duration(shape[1], durations[str(vid)], best) for vid, _, shape in videos):
        raise UserError(
            f"video {found}, expected {expected}; clips must be the first axis: (T, D), (T, layers, D) or "
            "(T, layers, tokens, D)"
        )
    for other in LIKELY_CLIP_SECONDS:
        if all(fits_duration(*length, other) for length in lengths):
            raise UserError(
                f"video {found}, expected {expected} of {best:g} s; all videos fit --clip-seconds {other:.6g}"
            )
    return best


def require_words(records: Iterable[Record], num_tokens: Mapping[Qid, int]) -> None:
    """Refuse a query that has fewer tokens than words, unless it was cut at the longest length of all.

    Args:
        records: Annotated queries.
        num_tokens: qid -> number of tokens.

    Raises:
        UserError: A query's features must be those of another query.
    """
    longest = max(num_tokens.values(), default=0)
    for record in records:
        tokens, words = num_tokens.get(record.qid), len(record.query.split())
        if tokens is not None and tokens < min(words, longest):
            raise UserError(
                f"qid {record.qid!r}: its file has {tokens} tokens, but the query has {words} words and other files "
                f"have up to {longest} tokens; the file belongs to another query, correct the file names"
            )
