"""Invented annotations with simulated features, the data of every training of ``sdst bench gpu``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.data.annotations import read_annotations
from sdst.features.simulate import write_simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdst.bench.gpu.settings import Settings
    from sdst.bench.report import Row
    from sdst.types import Record

WORDS = (
    "red",
    "blue",
    "dog",
    "cat",
    "woman",
    "child",
    "runs",
    "jumps",
    "eats",
    "opens",
    "ball",
    "road",
    "piano",
)
CLIP_SECONDS = 2
PROBED = 16
"""Videos that are simulated to learn how long all will take."""
SHARE = 0.6
"""Share of the time limit that simulating may take."""


def short(settings: Settings, seconds: float) -> Iterator[Row]:
    """Data of the short trainings."""
    yield _write(settings, "short", *settings.sizes.short, videos=sum(settings.sizes.short))


def paper(settings: Settings, seconds: float) -> Iterator[Row]:
    """Data of the paper-length training; where time is short, several queries share a video."""
    train, val = settings.sizes.paper
    probed = min(PROBED, train)
    start = time.monotonic()
    _write(settings, "probe", probed, 1, videos=probed + 1)
    each = (time.monotonic() - start) / (probed + 1)
    yield _write(settings, "paper", train, val, videos=min(train + val, max(2, int(SHARE * seconds / each))))


def data_overrides(settings: Settings, name: str) -> list[str]:
    """Overrides of a training on this data."""
    files = {split: settings.folder / f"{name}-{split}.jsonl" for split in ("train", "val")}
    shape = settings.sizes.step
    return [
        "data=qvhighlights",
        *(f"data.annotations.{split}={path}" for split, path in files.items()),
        "data.annotations.test=null",
        f"data.features={settings.folder / f'{name}.h5'}",
        f"data.batch_size={shape.batch}",
        f"levels.count={shape.levels}",
        settings.accelerator,
        *settings.sizes.model,
        *settings.sizes.sdst,
        *settings.sizes.trainings,
    ]


def _write(settings: Settings, name: str, train: int, val: int, videos: int) -> Row:
    """Write NAME-train.jsonl, NAME-val.jsonl and NAME.h5; returns a row that describes them."""
    start = time.monotonic()
    rng = np.random.default_rng(0)
    records: list[Record] = []
    val_videos = min(val, max(1, videos * val // (train + val)))
    for split, count, number in (("train", train, videos - val_videos), ("val", val, val_videos)):
        path = settings.folder / f"{name}-{split}.jsonl"
        rows = [
            _row(rng, split, index, index % number, settings.sizes.video_seconds) for index in range(count)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        records += read_annotations(path).records
    shape = settings.sizes.step
    features = settings.folder / f"{name}.h5"
    write_simulated(
        records, features, video_dim=shape.video_dim, text_dim=shape.text_dim, levels=shape.levels
    )
    return {
        "case": f"{train} training and {val} validation queries, {videos} videos",
        "gb": features.stat().st_size / 1e9,
        "videos_per_second": videos / (time.monotonic() - start),
    }


def _row(rng: np.random.Generator, split: str, index: int, video: int, seconds: int) -> dict[str, Any]:
    """A row in QVHighlights' format, with one window."""
    clips = seconds // CLIP_SECONDS
    first = int(rng.integers(clips - 1))
    behind = int(rng.integers(first + 1, clips + 1))
    return {
        "qid": index if split == "train" else 1_000_000 + index,
        "query": " ".join(rng.choice(WORDS, int(rng.integers(5, 15)))),
        "vid": f"{split}{video}",
        "duration": seconds,
        "relevant_windows": [[CLIP_SECONDS * first, CLIP_SECONDS * behind]],
        "relevant_clip_ids": list(range(first, behind)),
        "saliency_scores": rng.integers(2, 5, (behind - first, 3)).tolist(),
    }
