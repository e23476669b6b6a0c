"""Annotation files for tests: invented videos and sentences in the format of QVHighlights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.files.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CLIP_SECONDS = 2
SUBJECTS = (
    "A young woman",
    "A man in a hat",
    "The old farmer",
    "A girl",
    "A small boy",
    "The teacher",
    "A nurse",
    "A tourist",
    "The gardener",
    "A police officer",
)
VERBS = (
    "washes",
    "carries",
    "drops",
    "paints",
    "photographs",
    "repairs",
    "hides",
    "measures",
    "wraps",
    "examines",
    "borrows",
    "polishes",
)
THINGS = (
    "a red cup",
    "the guitar",
    "a wooden chair",
    "an old bicycle",
    "the green suitcase",
    "a glass bottle",
    "the broken radio",
    "a leather boot",
    "the yellow kite",
    "a heavy drum",
    "the silver kettle",
    "a paper lantern",
    "the blue umbrella",
    "a clay pot",
)
PLACES = (
    "in the kitchen",
    "on the beach",
    "near the station",
    "under a bridge",
    "in a garden",
    "at the market",
    "beside the river",
    "on the roof",
)
HELD_OUT = 4  # every fourth pairing of a verb with a thing occurs in val and test only
LENGTHS = ((1, 5), (6, 15), (16, 30))  # clips of a short, middle and long moment, both ends included


def write_toy_annotations(
    folder: str | Path, *, num_train: int, num_val: int, num_test: int, seed: int
) -> dict[str, Path]:
    """Write train.jsonl, val.jsonl and test.jsonl, all labelled, without shared videos.

    Val and test combine known verbs and things in pairs that train never has.

    Args:
        folder: Output folder; created if missing.
        num_train: Training videos; each has 1 to 3 queries, 2 on average.
        num_val: Validation videos.
        num_test: Test videos.
        seed: Random seed; equal seeds give equal files.

    Returns:
        Split name -> file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = {}
    num_queries = 0
    for split, num_videos in (("train", num_train), ("val", num_val), ("test", num_test)):
        rows: list[dict[str, Any]] = []
        for number in range(num_videos):
            rows += _video_rows(f"toy-{split}-{number:04d}", split != "train", rng)
        for row in rows:
            row["qid"] = num_queries
            num_queries += 1
        paths[split] = folder / f"{split}.jsonl"
        write_atomically(paths[split], "".join(json.dumps(row) + "\n" for row in rows))
    return paths


def _video_rows(vid: str, held_out: bool, rng: np.random.Generator) -> list[dict[str, Any]]:
    num_clips = int(rng.integers(40, 76))
    num_events = int(rng.integers(1, 4))
    rows = []
    # Verbs and things are unique in a video, so a sentence can only mean its own event.
    for verb, thing in _pairings(num_events, held_out, rng):
        windows = _draw_windows(num_clips, rng)
        clip_ids = [clip for start, end in windows for clip in range(start, end)]
        rows.append(
            {
                "qid": -1,
                "query": f"{rng.choice(SUBJECTS)} {VERBS[verb]} {THINGS[thing]} {rng.choice(PLACES)}.",
                "duration": num_clips * CLIP_SECONDS,
                "vid": vid,
                "relevant_windows": [[start * CLIP_SECONDS, end * CLIP_SECONDS] for start, end in windows],
                "relevant_clip_ids": clip_ids,
                "saliency_scores": [score for window in windows for score in _draw_scores(window, rng)],
            }
        )
    return rows


def _pairings(count: int, held_out: bool, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw ``count`` (verb, thing) pairs without repeating a verb or thing, all held out or none."""
    allowed = [
        (verb, thing)
        for verb in range(len(VERBS))
        for thing in range(len(THINGS))
        if ((verb + thing) % HELD_OUT == 0) == held_out
    ]
    chosen: list[tuple[int, int]] = []
    for index in rng.permutation(len(allowed)):
        verb, thing = allowed[index]
        if all(verb != other_verb and thing != other_thing for other_verb, other_thing in chosen):
            chosen.append((verb, thing))
        if len(chosen) == count:
            break
    return chosen


def _draw_windows(num_clips: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw one to three moments (first clip, end clip) of one length class, sorted, with gaps between them."""
    kind = rng.integers(len(LENGTHS))
    count = 1 if LENGTHS[kind] == LENGTHS[-1] else rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])
    windows: list[tuple[int, int]] = []
    for _ in range(20):  # the first always fits, the others need not
        length = int(rng.integers(*LENGTHS[kind], endpoint=True))
        start = int(rng.integers(num_clips - length + 1))
        if all(start > other_end or start + length < other_start for other_start, other_end in windows):
            windows.append((start, start + length))
        if len(windows) == count:
            break
    return sorted(windows)


def _draw_scores(window: tuple[int, int], rng: np.random.Generator) -> Sequence[list[int]]:
    """Draw three annotators' scores 0-4 for each clip of a moment, highest in its middle."""
    length = window[1] - window[0]
    bump = np.sin(np.pi * (np.arange(length) + 0.5) / length)[:, None]
    scores: NDArray[np.float64] = 1 + 2.5 * bump + rng.normal(0, 0.5, (length, 3))
    rounded: list[list[int]] = scores.round().clip(0, 4).astype(int).tolist()
    return rounded
