"""Annotation files as they were released: their rows, videos and content, to recognise a file under any name."""

from __future__ import annotations

from typing import NamedTuple


class Released(NamedTuple):
    """One split of a data set, counted in its released file.

    Attributes:
        queries: Number of rows.
        videos: Number of different vids.
        sha256: First 12 hexadecimal digits of the file's SHA-256.
    """

    queries: int
    videos: int
    sha256: str


RELEASED = {
    "qvhighlights": {
        "train": Released(7218, 7100, "fd2840418746"),
        "val": Released(1550, 1519, "f668a1eaea15"),
        "test": Released(1542, 1529, "bd50ec6bb5dd"),
    },
    "charades": {
        "train": Released(12404, 5336, "bcb0deddbb55"),
        "test": Released(3720, 1334, "13d6e9152794"),
    },
    "tacos": {
        "train": Released(9790, 75, "d5c931511093"),
        "val": Released(4436, 27, "1f75348f28e3"),
        "test": Released(4001, 25, "07e29508bfc2"),
    },
}
"""Data set -> split -> its released file. The repositories are named in docs/real-data.md."""
ABSENT = {"qvhighlights": {"train": ("611", "1265")}}
"""Queries that the published InternVideo2-6B features of FlashVTG lack."""
