"""Simulated features for a real annotation file: the right shapes, and a signal that a model can learn.

Each word is a direction in a space of concepts, fixed by a hash, so a word means the same in every file and
learning transfers to new sentences. A query is the mean of its content words. A clip contains the queries
whose moments cover it, a slowly varying background, and near misses that share only part of a query. Each
layer sees the concepts through its own linear map, related to those of the other layers; deeper layers have
less noise. All randomness follows from (seed, name), never from the order of rows.

The features are made from the annotated windows, so results on them say nothing about a real model.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from sdst.console.progress import progress_bars
from sdst.errors import UserError
from sdst.features.writer import FeatureWriter
from sdst.spans import count_clips

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.types import Record

BACKBONE = "simulated"
NUM_CONCEPTS = 64
NUM_VIDEO_LAYERS, NUM_TEXT_LAYERS = 40, 19  # InternVideo2-1B and its BERT

STOP_WORDS = frozenset({"a", "an", "and", "at", "by", "for", "in", "is", "of", "on", "the", "to", "with"})
STOP_WORD_GAIN = 0.3
EVENT_GAIN = (1.0, 1.5)  # strength of a query in its video, drawn per query
NEAR_MISS_SHARE = 0.5  # weight of the query's direction in a near miss
NEAR_MISS_CLIPS = (3, 10)
BACKGROUND_NORM = 0.5
BACKGROUND_CLIPS = 8  # distance between two drawn backgrounds
VIDEO_NOISE, TEXT_NOISE = 0.8, 0.5  # norm of the noise in the deepest layer, in concept space
NOISE_GROWTH = 1.4  # factor from a layer to the next shallower one
LAYER_SHARE = 0.5  # weight of a layer's own map; the rest is shared by all layers


def write_simulated(
    records: Sequence[Record],
    out: str | Path,
    *,
    clip_seconds: float = 2.0,
    video_dim: int = 768,
    text_dim: int = 1024,
    levels: int = 4,
    seed: int = 0,
) -> None:
    """Write simulated features of all videos and queries, continuing a run that was killed.

    Args:
        records: Rows of all annotation files that the features are for.
        out: The feature file to write.
        clip_seconds: Length of a clip.
        video_dim: Width Dv of video features.
        text_dim: Width Dt of query features.
        levels: Number of layers to write of each tower, the deepest ones.
        seed: Seed of all draws; another seed gives other features with the same statistics.

    Raises:
        UserError: Two rows share a qid but differ; a size is out of range; the file exists.
    """
    if not 1 <= levels <= NUM_TEXT_LAYERS:
        raise UserError(f"{out}: levels must be from 1 to {NUM_TEXT_LAYERS}, got {levels}")
    if min(video_dim, text_dim) < 1 or not clip_seconds > 0:
        raise UserError(
            f"{out}: widths and clip length must be positive, got {video_dim}, {text_dim} and {clip_seconds}"
        )
    queries = _queries_by_qid(records)
    videos = defaultdict(list)
    for record in queries.values():
        videos[record.vid].append(record)
    video_layers = range(NUM_VIDEO_LAYERS - levels + 1, NUM_VIDEO_LAYERS + 1)
    text_layers = range(NUM_TEXT_LAYERS - levels + 1, NUM_TEXT_LAYERS + 1)
    video_maps = _layer_maps("video", video_layers, video_dim, seed)
    text_maps = _layer_maps("text", text_layers, text_dim, seed)
    video_noise = VIDEO_NOISE * NOISE_GROWTH ** (NUM_VIDEO_LAYERS - np.array(video_layers))
    text_noise = TEXT_NOISE * NOISE_GROWTH ** (NUM_TEXT_LAYERS - np.array(text_layers))

    writer = FeatureWriter(
        out,
        backbone=BACKBONE,
        video_layers=video_layers,
        text_layers=text_layers,
        clip_seconds=clip_seconds,
        simulated=True,
        extra={"simulation": f"seed {seed}, widths {video_dim} and {text_dim}"},
    )
    with writer:
        with progress_bars() as progress:
            for vid, rows in progress.track(videos.items(), description="simulating videos"):
                if not writer.has_video(vid, "adaptive"):
                    concepts = video_concepts(rows, clip_seconds, seed)
                    rng = _generator(seed, "video noise", vid)
                    writer.write_video("adaptive", vid, _observe(concepts, video_maps, video_noise, rng))
            for qid, row in progress.track(queries.items(), description="simulating queries"):
                if not writer.has_text(qid):
                    rng = _generator(seed, "text noise", qid)
                    writer.write_text(qid, _observe(text_concepts(row.query), text_maps, text_noise, rng))
        writer.finish()


def video_concepts(rows: Sequence[Record], clip_seconds: float, seed: int) -> NDArray[np.float32]:
    """(T, C) concepts in each clip of a video; the order of its rows does not matter."""
    vid = rows[0].vid
    num_clips = count_clips(max(row.duration for row in rows), clip_seconds)
    concepts = _background(num_clips, _generator(seed, "background", vid))
    for row in sorted(rows, key=lambda row: str(row.qid)):
        rng = _generator(seed, "event", vid, str(row.qid))
        query = query_concept(row.query)
        concepts += rng.uniform(*EVENT_GAIN) * visibility(row, num_clips, clip_seconds)[:, None] * query
        start, length = rng.integers(num_clips), rng.integers(*NEAR_MISS_CLIPS)
        other = _unit(rng.standard_normal(NUM_CONCEPTS, dtype=np.float32))
        near_miss = _unit(NEAR_MISS_SHARE * query + (1 - NEAR_MISS_SHARE) * other)
        concepts[start : start + length] += near_miss
    return concepts


def visibility(row: Record, num_clips: int, clip_seconds: float) -> NDArray[np.float32]:
    """(T,) in [0, 1]: the part of each clip inside the row's moments, reduced where annotators scored it low."""
    if row.windows is None:
        return np.zeros(num_clips, np.float32)
    clip_start = np.arange(num_clips)[:, None] * clip_seconds
    start, end = row.windows.T  # (G,) each
    overlap = np.minimum(end, clip_start + clip_seconds) - np.maximum(start, clip_start)
    inside = (overlap.clip(min=0).sum(axis=1) / clip_seconds).clip(max=1)
    if row.clip_scores is not None and len(row.clip_scores):
        centre = (np.arange(num_clips) + 0.5) * clip_seconds
        scored = np.minimum(centre // 2, len(row.clip_scores) - 1).astype(int)  # scores are per 2 s
        inside *= 0.5 + 0.5 * row.clip_scores[scored].mean(axis=1) / 4
    weights: NDArray[np.float32] = inside.astype(np.float32)
    return weights


def text_concepts(query: str) -> NDArray[np.float32]:
    """(1 + words, C): the whole query as CLS, then every word, stop words scaled down."""
    words = _words(query)
    tokens = [word_concept(word) * (STOP_WORD_GAIN if word in STOP_WORDS else 1) for word in words]
    return np.stack([query_concept(query), *tokens])


def query_concept(query: str) -> NDArray[np.float32]:
    """(C,) unit direction of a query: the mean of its content words, or of all words if it has none."""
    words = _words(query)
    content = [word for word in words if word not in STOP_WORDS] or words
    return _unit(np.sum([word_concept(word) for word in content], axis=0))


@cache
def word_concept(word: str) -> NDArray[np.float32]:
    """(C,) unit direction of a lower-case word; the same for every file, run and seed."""
    return _unit(_generator("word", word).standard_normal(NUM_CONCEPTS))


def _queries_by_qid(records: Sequence[Record]) -> dict[str, Record]:
    queries: dict[str, Record] = {}
    for record in records:
        known = queries.setdefault(str(record.qid), record)
        if (known.vid, known.query) != (record.vid, record.query):
            raise UserError(f"qid {record.qid} stands for two different rows; give files with unique qids")
    return queries


def _words(query: str) -> list[str]:
    return re.findall(r"[^\W_]+", query.lower()) or [query]


def _background(num_clips: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(T, C) linear interpolation between drawn directions."""
    anchors = rng.standard_normal((num_clips // BACKGROUND_CLIPS + 2, NUM_CONCEPTS), dtype=np.float32)
    whole, part = np.divmod(np.arange(num_clips, dtype=np.float32) / BACKGROUND_CLIPS, 1)
    index = whole.astype(int)
    mixed: NDArray[np.float32] = (1 - part[:, None]) * anchors[index] + part[:, None] * anchors[index + 1]
    return mixed * np.float32(BACKGROUND_NORM / NUM_CONCEPTS**0.5)


def _layer_maps(tower: str, layers: Sequence[int], width: int, seed: int) -> NDArray[np.float32]:
    """(n, C, width) map of each layer from concepts to features: a shared map mixed with its own, with gains."""
    shared = _orthogonal(width, _generator(seed, tower, "all layers"))
    maps = []
    for layer in layers:
        rng = _generator(seed, tower, f"layer {layer}")
        gains = rng.uniform(0.2, 1.8, (NUM_CONCEPTS, 1))
        maps.append(gains * ((1 - LAYER_SHARE) * shared + LAYER_SHARE * _orthogonal(width, rng)))
    return np.stack(maps).astype(np.float32)


def _orthogonal(width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(C, width) map with orthonormal rows (columns if width < C), scaled to mean square 1 per feature."""
    tall = rng.standard_normal((max(width, NUM_CONCEPTS), min(width, NUM_CONCEPTS)))
    basis: NDArray[np.float64] = width**0.5 * np.linalg.qr(tall).Q
    return basis if width < NUM_CONCEPTS else basis.T


def _observe(
    concepts: NDArray[np.float32],
    maps: NDArray[np.float32],
    noise: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """(N, n, width) features: (N, C) concepts plus each layer's noise, mapped by each layer's map."""
    shape = (len(maps), *concepts.shape)
    scale = (noise / NUM_CONCEPTS**0.5).astype(np.float32)[:, None, None]
    noisy = concepts + scale * rng.standard_normal(shape, dtype=np.float32)
    features: NDArray[np.float32] = noisy @ maps
    return features.transpose(1, 0, 2)


def _unit(vector: NDArray[np.floating]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def _generator(*name: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))
