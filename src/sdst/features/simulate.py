"""Simulated features for a real annotation file: the right shapes, and a signal that a model can learn.

They stand for real features where those are missing, so each property copies one of real features:

- **Words are directions** in a space of concepts, fixed by a hash. A word means the same in every file, so what is
  learned on training videos holds for new sentences. A query is the mean of its content words.
- **A clip shows** the queries whose moments cover it, however long those are, and distractors: near misses, which share
  about half of a query's words, and events of common words that nobody annotated. Distractors have all lengths, so
  their length does not betray them.
- **Each layer knows something of its own.** A concept is seen best in one layer and less in the others, as probes of
  transformers find. Most concepts are best in deep layers, so the last layer is the best one, but several together
  know more. Each layer has noise of its own; the background is the same in all, because residual connections keep it.
- **Neighbouring clips are alike.** Background and noise change slowly, within seconds, and a part of the background
  stays for the whole video: its place, its people, its camera.
- **Features lie in a cone.** A direction that all clips share holds about half of their squared norm (Ethayarajh, EMNLP
  2019; Liang et al., NeurIPS 2022). A video feature has about unit variance, a text feature that of BERT's normalised
  states, and shallower layers are smaller, as in a residual stream.
- **No pooling is better** than another: each has its own maps, and noise of the same size.

Outlier dimensions, shot cuts and the order of words are left out. All randomness follows from (seed, name), never from
the order or presence of other rows, except that the queries of one video belong together.

The features are made from the annotated windows, so results on them say nothing about a real model.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import lfilter

from sdst.console.progress import progress_bars
from sdst.data.annotations import clips_of, label_saliency
from sdst.errors import UserError
from sdst.features.writer import FeatureWriter
from sdst.spans import count_clips, regrid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.types import Record

BACKBONE = "simulated"
DESIGN = 2
"""Number of the design above. Features of another design are other features, even with the same seed."""
NUM_CONCEPTS = 64
NUM_VIDEO_LAYERS, NUM_TEXT_LAYERS = 40, 19  # InternVideo2-1B and its BERT

STOP_WORDS = frozenset({"a", "an", "and", "at", "by", "for", "in", "is", "of", "on", "the", "to", "with"})
COMMON_WORDS = (
    *("man", "woman", "people", "girl", "boy", "child", "friends", "dog", "cat", "crowd", "family"),
    *("car", "street", "kitchen", "food", "table", "camera", "phone", "bag", "door", "room", "water"),
    *("white", "black", "red", "blue", "shirt", "hat", "city", "beach", "book", "store", "train"),
    *("talks", "walks", "sits", "stands", "holds", "eats", "drinks", "drives", "opens", "cooks"),
)
"""Words of distractors, which queries have, too."""
STOP_WORD_GAIN = 0.3
CONTEXT_SHARE = 0.3  # weight of the whole query in each of its words
EVENT_GAIN = (1.0, 1.5)  # strength of a query, near miss or other event in its video, drawn for each
SECONDS_PER_EVENT = 40.0  # of video for each event that nobody annotated
BACKGROUND_NORM, PLACE_NORM = 0.6, 1.0  # of what changes within a video, and of what stays
CHANGE_SECONDS = 8.0  # time in which background and noise lose all but 1/e of their correlation
VIDEO_NOISE, TEXT_NOISE = 1.5, 0.6  # norm of a layer's own noise, in concept space
STEADY_SHARE = 0.7  # of the squared norm of video noise: the part that changes slowly
BEST_LAYER = 0.5  # share of the concepts that the last layer sees best, and each shallower one of those left
LAYERS_SEEN = 1.5  # distance in layers at which a concept's gain has fallen to 1/e, above the least
LEAST_GAIN = 0.2
LAYER_SHARE = 0.5  # weight of a layer's own map; the rest is shared by all layers
VIDEO_CONE, TEXT_CONE = 1.3, 0.8  # norm of the common direction, about that of concepts and noise together
VIDEO_SCALE, TEXT_SCALE = 0.6, 0.5  # root mean square of a feature of the last layer is about 1 and 0.6
SHALLOWER = 0.95  # scale of a layer relative to the next deeper one


def write_simulated(
    records: Sequence[Record],
    out: str | Path,
    *,
    clip_seconds: float = 2.0,
    video_dim: int = 768,
    text_dim: int = 1024,
    levels: int = 4,
    poolings: Sequence[str] = ("adaptive",),
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
        poolings: Poolings of the video features to write.
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
    video_towers = {
        pooling: _Tower.draw(f"video {pooling}", video_layers, video_dim, VIDEO_CONE, VIDEO_SCALE, seed)
        for pooling in poolings
    }
    text_tower = _Tower.draw("text", text_layers, text_dim, TEXT_CONE, TEXT_SCALE, seed)

    writer = FeatureWriter(
        out,
        backbone=BACKBONE,
        video_layers=video_layers,
        text_layers=text_layers,
        clip_seconds=clip_seconds,
        simulated=True,
        extra={"simulation": f"design {DESIGN}, seed {seed}, widths {video_dim} and {text_dim}"},
    )
    with writer:
        with progress_bars() as progress:
            for vid, rows in progress.track(videos.items(), description="simulating videos"):
                left = [pooling for pooling in poolings if not writer.has_video(vid, pooling)]
                if not left:
                    continue
                concepts = video_concepts(rows, clip_seconds, seed)
                for pooling in left:
                    rng = _generator(seed, f"video noise {pooling}", vid)
                    noise = _video_noise((levels, *concepts.shape), clip_seconds, rng)
                    writer.write_video(pooling, vid, video_towers[pooling].observe(concepts, noise))
            for qid, row in progress.track(queries.items(), description="simulating queries"):
                if not writer.has_text(qid):
                    concepts = text_concepts(row.query)
                    rng = _generator(seed, "text noise", qid)
                    noise = TEXT_NOISE * _normal(rng, (levels, *concepts.shape))
                    writer.write_text(qid, text_tower.observe(concepts, noise))
        writer.finish()


def video_concepts(rows: Sequence[Record], clip_seconds: float, seed: int) -> NDArray[np.float32]:
    """(T, C) concepts in each clip of a video; the order of its rows does not matter."""
    vid = rows[0].vid
    num_clips = count_clips(max(clips_of(row, clip_seconds) for row in rows), 1.0)
    rng = _generator(seed, "background", vid)
    concepts = BACKGROUND_NORM * _slow(_normal(rng, (num_clips, NUM_CONCEPTS)), clip_seconds)
    concepts += PLACE_NORM * _normal(rng, (NUM_CONCEPTS,))
    for _ in range(round(num_clips * clip_seconds / SECONDS_PER_EVENT)):
        other = query_concept(" ".join(rng.choice(COMMON_WORDS, rng.integers(2, 5), replace=False)))
        concepts += rng.uniform(*EVENT_GAIN) * _somewhere(num_clips, rng)[:, None] * other
    for row in sorted(rows, key=lambda row: str(row.qid)):
        rng = _generator(seed, "event", vid, str(row.qid))
        shown = visibility(row, num_clips, clip_seconds)
        concepts += rng.uniform(*EVENT_GAIN) * shown[:, None] * query_concept(row.query)
        missed = _somewhere(num_clips, rng) * (shown == 0)
        concepts += rng.uniform(*EVENT_GAIN) * missed[:, None] * near_miss(row.query, rng)
    return concepts


def near_miss(query: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """(C,) unit direction of an event in which half of the query's content words, at least one, are others."""
    words = _content(query)
    others = rng.choice([word for word in COMMON_WORDS if word not in words] or COMMON_WORDS, len(words))
    changed = rng.permutation(len(words)) < (len(words) + 1) // 2
    return query_concept(" ".join(np.where(changed, others, words)))


def visibility(row: Record, num_clips: int, clip_seconds: float) -> NDArray[np.float32]:
    """(T,) in [0, 1]: the part of each clip inside the row's moments, reduced where annotators scored it low.

    Of a row without moments it is the saliency of its labels, if it has any.
    """
    if row.windows is None:
        shown = np.zeros(num_clips, np.float32)
        if row.clip_labels is not None:
            shown[:] = regrid(label_saliency(row.clip_labels), num_clips)
        return shown
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
    """(1 + words, C): the whole query as CLS, then every word in its context, stop words scaled down."""
    whole = query_concept(query)
    tokens = [
        word_concept(word) * (STOP_WORD_GAIN if word in STOP_WORDS else 1) + CONTEXT_SHARE * whole
        for word in _words(query)
    ]
    return np.stack([whole, *tokens])


def query_concept(query: str) -> NDArray[np.float32]:
    """(C,) unit direction of a query: the mean of its content words, or of all words if it has none."""
    return _unit(np.sum([word_concept(word) for word in _content(query)], axis=0))


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


def _content(query: str) -> list[str]:
    words = _words(query)
    return [word for word in words if word not in STOP_WORDS] or words


def _somewhere(num_clips: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(T,) 1 in a stretch of clips, 0 elsewhere; every octave of lengths up to half of T is as likely."""
    length = round(2 ** rng.uniform(0, np.log2(max(2, num_clips / 2))))
    places = np.arange(num_clips) - rng.integers(max(1, num_clips - length + 1))
    return ((places >= 0) & (places < length)).astype(np.float32)


@dataclass(frozen=True)
class _Tower:
    """How the layers of one tower see concepts.

    Attributes:
        gains: (n, C) how strongly each layer sees each concept.
        maps: (n, C, width) from concepts to features.
        cones: (n, width) direction that all features of a layer share.
        scales: (n,) size of each layer's features.
    """

    gains: NDArray[np.float32]
    maps: NDArray[np.float32]
    cones: NDArray[np.float32]
    scales: NDArray[np.float32]

    @classmethod
    def draw(
        cls, name: str, layers: Sequence[int], width: int, cone_norm: float, scale: float, seed: int
    ) -> _Tower:
        """The last layers of a tower, with a ``cone_norm`` relative to concepts and the ``scale`` of the last one."""
        back = layers[-1] - np.array(layers)
        best = (
            _generator(seed, name, "best layers").geometric(BEST_LAYER, NUM_CONCEPTS) - 1
        )  # counted like back
        gains = LEAST_GAIN + (1 - LEAST_GAIN) * np.exp(-np.abs(back[:, None] - best) / LAYERS_SEEN)
        shared = _orthogonal(width, _generator(seed, name, "all layers"))
        cone = _generator(seed, name, "cone").standard_normal(width)
        maps, cones = [], []
        for layer in layers:
            rng = _generator(seed, name, f"layer {layer}")
            maps.append((1 - LAYER_SHARE) * shared + LAYER_SHARE * _orthogonal(width, rng))
            own = (1 - LAYER_SHARE) * cone + LAYER_SHARE * rng.standard_normal(width)
            cones.append(cone_norm * width**0.5 * own / np.linalg.norm(own))
        parts = (gains, np.stack(maps), np.stack(cones), scale * SHALLOWER**back)
        return cls(*(part.astype(np.float32) for part in parts))

    def observe(self, concepts: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, n, width) features of (N, C) concepts and each layer's (n, N, C) noise."""
        seen = self.gains[:, None] * concepts + noise
        features: NDArray[np.float32] = np.matmul(seen, self.maps)
        features += self.cones[:, None]
        features *= self.scales[:, None, None]
        return features.transpose(1, 0, 2)


def _orthogonal(width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(C, width) map with orthonormal rows (columns if width < C), scaled to mean square 1 per feature."""
    tall = rng.standard_normal((max(width, NUM_CONCEPTS), min(width, NUM_CONCEPTS)))
    basis: NDArray[np.float64] = width**0.5 * np.linalg.qr(tall).Q
    return basis if width < NUM_CONCEPTS else basis.T


def _video_noise(
    shape: tuple[int, int, int], clip_seconds: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(n, T, C) noise of each layer, a part of which changes slowly."""
    noise = _slow(_normal(rng, shape), clip_seconds)
    noise *= STEADY_SHARE**0.5
    noise += np.float32((1 - STEADY_SHARE) ** 0.5) * _normal(rng, shape)
    noise *= VIDEO_NOISE
    return noise


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draws (..., C) of mean square norm 1."""
    drawn: NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
    return drawn / np.float32(NUM_CONCEPTS**0.5)


def _slow(drawn: NDArray[np.float32], clip_seconds: float) -> NDArray[np.float32]:
    """Independent draws (..., T, C) as a stationary first-order autoregression over T, of the same variance."""
    kept = np.float32(np.exp(-clip_seconds / CHANGE_SECONDS))
    new = np.float32(np.sqrt(1 - kept**2))
    fresh = drawn * new
    fresh[..., 0, :] = drawn[..., 0, :]  # as if it had always gone on
    slow: NDArray[np.float32] = lfilter(
        np.ones(1, np.float32), np.array([1, -kept], np.float32), fresh, axis=-2
    )
    return slow


def _unit(vector: NDArray[np.floating]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def _generator(*name: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))
