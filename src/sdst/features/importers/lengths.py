"""Compare the lengths of imported features with the annotations: clips with durations, tokens with words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.features.importers.axes import ACCEPTED
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
        UserError: None fits half of the videos, but another clip length or order of axes fits more.
    """
    lengths = [(num_clips, durations[str(vid)]) for vid, num_clips, _ in videos]

    def count_fitting(clip_seconds: float) -> int:
        return sum(fits_duration(*length, clip_seconds) for length in lengths)

    best = max(choices, key=count_fitting)  # the first of several
    most = len(lengths) / 2
    if count_fitting(best) >= most:
        return best
    vid, num_clips, shape = videos[0]
    seconds = durations[str(vid)]
    found = (
        f"video {vid} has {num_clips} clips (shape {shape}) for {seconds:g} s, "
        f"expected {count_clips(seconds, best)} of {best:g} s"
    )
    if most < sum(
        len(shape) > 1 and fits_duration(shape[1], durations[str(vid)], best) for vid, _, shape in videos
    ):
        raise UserError(f"{found}; clips must be the first axis: {ACCEPTED['video']}")
    other = max(LIKELY_CLIP_SECONDS, key=count_fitting)
    if count_fitting(other) > most:
        raise UserError(
            f"{found}; {count_fitting(other)} of {len(videos)} videos fit --clip-seconds {other:.6g}"
        )
    return best


class QueryLengths:
    """Refuses a query that has fewer tokens than words, unless it was cut at the longest length of all.

    Args:
        records: Annotated queries.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._words = {record.qid: len(record.query.split()) for record in records}
        self._longest = 0

    def require(self, num_tokens: Mapping[Qid, int], advice: str = "") -> None:
        """Check queries; earlier ones count for the longest length.

        Args:
            num_tokens: qid -> number of tokens.
            advice: What else to do if one is refused.

        Raises:
            UserError: A query's features must be those of another query.
        """
        self._longest = max(self._longest, *num_tokens.values())
        for qid, tokens in num_tokens.items():
            if tokens < min(self._words[qid], self._longest):
                raise UserError(
                    f"qid {qid!r}: its file has {tokens} tokens, but the query has {self._words[qid]} words and other "
                    f"files have up to {self._longest} tokens; it belongs to another query, correct its name{advice}"
                )
