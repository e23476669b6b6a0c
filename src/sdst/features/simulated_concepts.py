"""What simulated videos show and simulated queries mean: directions in a space of concepts (see ``simulate``)."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.signal import lfilter

from sdst.data.annotations import clips_of, label_saliency
from sdst.spans import count_clips, regrid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sdst.types import Record

NUM_CONCEPTS = 64

STOP_WORDS = frozenset({"a", "an", "and", "at", "by", "for", "in", "is", "of", "on", "the", "to", "with"})
COMMON_WORDS = (
    *("man", "woman", "people", "girl", "boy", "child", "friends", "dog", "cat", "crowd", "family"),
    *("car", "street", "kitchen", "food", "table", "camera", "phone", "bag", "door", "room", "water"),
    *("white", "black", "red", "blue", "shirt", "hat", "city", "beach", "book", "store", "train"),
    *("talks", "walks", "sits", "stands", "holds", "eats", "drinks", "drives", "opens", "cooks"),
)
"""Words of distractors; real queries use them too."""
STOP_WORD_GAIN = 0.3
CONTEXT_SHARE = 0.3  # weight of the whole query in each of its words
EVENT_GAIN = (1.0, 1.5)  # strength of a query, near miss or other event in its video, drawn for each
SECONDS_PER_EVENT = 40.0  # of video for each event that nobody annotated
BACKGROUND_NORM, PLACE_NORM = 0.6, 1.0  # of what changes within a video, and of what stays
CHANGE_SECONDS = 8.0  # time in which background and noise lose all but 1/e of their correlation


def video_concepts(rows: Sequence[Record], clip_seconds: float, seed: int) -> NDArray[np.float32]:
    """(T, C) concepts in each clip of a video; the order of its rows does not matter."""
    vid = rows[0].vid
    num_clips = count_clips(max(clips_of(row, clip_seconds) for row in rows), 1.0)
    rng = generator(seed, "background", vid)
    concepts = BACKGROUND_NORM * slow(normal(rng, (num_clips, NUM_CONCEPTS)), clip_seconds)
    concepts += PLACE_NORM * normal(rng, (NUM_CONCEPTS,))
    for _ in range(round(num_clips * clip_seconds / SECONDS_PER_EVENT)):
        other = query_concept(" ".join(rng.choice(COMMON_WORDS, rng.integers(2, 5), replace=False)))
        concepts += rng.uniform(*EVENT_GAIN) * _somewhere(num_clips, rng)[:, None] * other
    for row in sorted(rows, key=lambda row: str(row.qid)):
        rng = generator(seed, "event", vid, str(row.qid))
        shown = visibility(row, num_clips, clip_seconds)
        concepts += rng.uniform(*EVENT_GAIN) * shown[:, None] * query_concept(row.query)
        missed = _somewhere(num_clips, rng) * (shown == 0)
        concepts += rng.uniform(*EVENT_GAIN) * missed[:, None] * near_miss(row.query, rng)
    return concepts


def near_miss(query: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """(C,) unit direction of an event that differs from the query in half of its content words, at least one."""
    words = _content(query)
    others = rng.choice([word for word in COMMON_WORDS if word not in words] or COMMON_WORDS, len(words))
    changed = rng.permutation(len(words)) < (len(words) + 1) // 2
    return query_concept(" ".join(np.where(changed, others, words)))


def visibility(row: Record, num_clips: int, clip_seconds: float) -> NDArray[np.float32]:
    """(T,) in [0, 1]: the part of each clip inside the row's moments, reduced where annotators scored it low.

    For a row without moments, the saliency of its labels, if it has any.
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
    return _unit(generator("word", word).standard_normal(NUM_CONCEPTS))


def _words(query: str) -> list[str]:
    return re.findall(r"[^\W_]+", query.lower()) or [query]


def _content(query: str) -> list[str]:
    words = _words(query)
    return [word for word in words if word not in STOP_WORDS] or words


def _somewhere(num_clips: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(T,) 1 in a stretch of clips, 0 elsewhere; all octaves of lengths up to half of T are equally likely."""
    length = round(2 ** rng.uniform(0, np.log2(max(2, num_clips / 2))))
    places = np.arange(num_clips) - rng.integers(max(1, num_clips - length + 1))
    return ((places >= 0) & (places < length)).astype(np.float32)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draws (..., C) of mean square norm 1."""
    drawn: NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
    return drawn / np.float32(NUM_CONCEPTS**0.5)


def slow(drawn: NDArray[np.float32], clip_seconds: float) -> NDArray[np.float32]:
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


def generator(*name: object) -> np.random.Generator:
    """The generator of a name: a hash of its parts is the seed."""
    digest = hashlib.sha256("/".join(map(str, name)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))
