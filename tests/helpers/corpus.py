"""A tiny corpus in the format of each dataset: annotations, features, and overrides that train in seconds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdst.data.annotations import read_annotations
from sdst.features.simulate import write_simulated

WORDS = ("dog", "cat", "man", "jumps", "sleeps", "sings", "red", "ball", "piano", "river")
TINY = [
    *("model.dim=16", "model.heads=2", "model.num_queries=4", "model.roi_bins=4"),
    *("model.actionness_dim=8", "levels.count=2"),
    *("data.batch_size=4", "data.num_workers=0", "optim.lr=1e-3", "optim.warmup_steps=4"),
    *("trainer.max_epochs=2", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1"),
]
"""Overrides that make a run take about a second."""


@dataclass(frozen=True)
class Corpus:
    """Annotation files by split, their features, and the overrides that train on them."""

    paths: dict[str, Path]
    features: Path
    overrides: list[str]


def make_rows(
    split: str, count: int, *, scores: bool = True, text_qids: bool = False
) -> list[dict[str, Any]]:
    """Annotation rows of 8 to 12 s, one window each; every third video has two queries."""
    rng = np.random.default_rng([len(split), count])
    rows = []
    for index in range(count):
        video = index - (index % 3 == 2)
        num_clips = 4 + video % 3
        start = int(rng.integers(num_clips - 1))
        end = int(rng.integers(start + 1, num_clips + 1))
        row = {
            "qid": f"{split}_{index}" if text_qids else 1000 * len(split) + index,
            "query": " ".join(rng.choice(WORDS, 3, replace=False)),
            "vid": f"{split}{video}",
            "duration": 2 * num_clips,
            "relevant_windows": [[2 * start, 2 * end]],
        }
        if scores:
            row["relevant_clip_ids"] = list(range(start, end))
            row["saliency_scores"] = rng.integers(2, 5, (end - start, 3)).tolist()
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_corpus(
    folder: Path, rows: dict[str, list[dict[str, Any]]], data: str = "qvhighlights", **features: Any
) -> Corpus:
    """Write annotations and simulated features (width 16, two layers); return them with training overrides."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {split: write_rows(folder / f"{split}.jsonl", split_rows) for split, split_rows in rows.items()}
    records = [record for path in paths.values() for record in read_annotations(path).records]
    store = folder / "features.h5"
    write_simulated(records, store, **{"video_dim": 16, "text_dim": 16, "levels": 2, **features})
    return Corpus(
        paths,
        store,
        [
            f"data={data}",
            *TINY,
            f"data.features={store}",
            *(f"data.annotations.{split}={paths.get(split, 'null')}" for split in ("train", "val", "test")),
        ],
    )
