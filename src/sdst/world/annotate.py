"""Annotations of a scene: queries with their moments, saliency of three annotators, and the facts of each clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.world.grammar import sentence
from sdst.world.scene import CLIP_SECONDS, SIDE, actor_states
from sdst.world.shapes import band, coverage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdst.world.grammar import Fact
    from sdst.world.scene import Scene, States

    Floats = NDArray[np.float64]

MAX_MOMENTS = 5  # per query
MIN_VISIBLE = 0.3  # share of a thing that must be visible for a query or caption to mention it
LOOKS_PER_CLIP = 4
GRID = 12  # points across a thing at which it is checked for being hidden
LARGEST = 20.0  # radius in pixels that counts as size 1
QUALITY_WEIGHTS = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
"""Weights of size, centrality and visibility (columns) for each annotator (rows)."""
ZERO_QUALITY = (0.25, 0.2, 0.42)  # the weighted quality at which each annotator's score is 0
SCORE_SLOPE = 7.0  # points per unit of weighted quality
SCORE_NOISE = 0.4  # standard deviation of a score's random part


def annotate(scene: Scene, *, most: int, held_out: bool, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return queries about a scene, as rows of a QVHighlights file without a qid.

    Args:
        scene: The video.
        most: Number of queries that are kept if there are more.
        held_out: Whether to ask about combinations that are held out from training, or about the others.
        rng: Random generator of queries, words and the noise of scores.
    """
    moments, qualities = find_moments(scene), clip_qualities(scene)
    askable = [
        fact
        for fact, windows in moments.items()
        if fact.held_out == held_out
        and len(windows) <= MAX_MOMENTS
        and all(qualities[fact][first:end, 2].mean() >= MIN_VISIBLE for first, end in windows)
    ]
    chosen = [askable[index] for index in rng.permutation(len(askable))[:most]]
    rows = []
    for fact in chosen:
        clips = [clip for first, end in moments[fact] for clip in range(first, end)]
        rows.append(
            {
                "query": sentence(fact, rng),
                "duration": scene.duration,
                "vid": scene.vid,
                "relevant_windows": [
                    [first * CLIP_SECONDS, end * CLIP_SECONDS] for first, end in moments[fact]
                ],
                "relevant_clip_ids": clips,
                "saliency_scores": _score(qualities[fact][clips], rng).tolist(),
            }
        )
    return rows


def visible_facts(scene: Scene) -> list[list[Fact]]:
    """Return the facts of each clip, the largest visible area first, without things that are mostly hidden."""
    qualities = clip_qualities(scene)
    seen: list[list[tuple[float, Fact]]] = [[] for _ in range(scene.num_clips)]
    for fact, windows in find_moments(scene).items():
        size, _, visibility = qualities[fact].T
        for clip in (clip for first, end in windows for clip in range(first, end)):
            if visibility[clip] >= MIN_VISIBLE:
                seen[clip].append((size[clip] ** 2 * visibility[clip], fact))
    return [[fact for _, fact in sorted(facts, key=lambda pair: -pair[0])] for facts in seen]


def find_moments(scene: Scene) -> dict[Fact, list[tuple[int, int]]]:
    """Return fact -> (first clip, clip after the last) of each of its moments, in order of time."""
    moments: dict[Fact, list[tuple[int, int]]] = {}
    for actor in scene.actors:
        for act in actor.acts:
            moments.setdefault(actor.fact(act), []).append((act.first, act.end))
    return moments


def clip_qualities(scene: Scene) -> dict[Fact, Floats]:
    """Return fact -> (num_clips, 3) size, centrality and visibility of its thing in [0, 1].

    Visibility is the share of the thing that nearer things do not hide. Values are meaningless while the thing is
    absent.
    """
    times = (np.arange(scene.num_clips * LOOKS_PER_CLIP) + 0.5) * CLIP_SECONDS / LOOKS_PER_CLIP
    shift_x, shift_y = scene.camera.shift(times)
    states = [actor_states(actor, times) for actor in scene.actors]
    qualities: dict[Fact, Floats] = {}
    for index, (actor, state) in enumerate(zip(scene.actors, states, strict=True)):
        x, y = state.x + shift_x, state.y + shift_y
        from_centre = np.hypot(_around(x - SIDE / 2), _around(y - SIDE / 2))
        looks = np.stack(
            [
                state.radius / LARGEST,
                1 - from_centre / np.hypot(SIDE / 2, SIDE / 2),
                _visibility(scene, index, states),
            ],
            axis=1,
        )
        mean = looks.clip(0, 1).reshape(scene.num_clips, LOOKS_PER_CLIP, 3).mean(axis=1)
        qualities |= {actor.fact(act): mean for act in actor.acts}
    return qualities


def _visibility(scene: Scene, index: int, states: list[States]) -> Floats:
    """Return the (N,) share of an actor that nearer actors and pillars do not hide."""
    actor, state = scene.actors[index], states[index]
    ticks = np.linspace(-1, 1, GRID) * state.radius[:, None]
    dx, dy = ticks[:, None, :], ticks[:, :, None]  # (N, 1, GRID), (N, GRID, 1)
    own = coverage(actor.shape, dx, dy, state.radius[:, None, None], actor.tilt)
    x, y = state.x[:, None, None] + dx, state.y[:, None, None] + dy
    left = own
    for nearer, other in zip(scene.actors[index + 1 :], states[index + 1 :], strict=True):
        away_x = _around(x - other.x[:, None, None])
        away_y = _around(y - other.y[:, None, None])
        hidden = coverage(nearer.shape, away_x, away_y, other.radius[:, None, None], nearer.tilt)
        left = left * (1 - hidden * other.present[:, None, None])
    for pillar in scene.pillars:
        left = left * (1 - band(_around(x - pillar.x), pillar.width))
    share: Floats = left.sum(axis=(1, 2)) / own.sum(axis=(1, 2))
    return share


def _around(distance: Floats) -> Floats:
    """Return the shortest signed distance along an axis of the torus."""
    return (distance + SIDE / 2) % SIDE - SIDE / 2


def _score(qualities: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the annotators' scores 0-4 (N, 3) of clips with the given qualities (N, 3)."""
    quality = qualities @ QUALITY_WEIGHTS.T - ZERO_QUALITY
    scores: Floats = SCORE_SLOPE * quality + rng.normal(0, SCORE_NOISE, quality.shape)
    return np.rint(scores).clip(0, 4).astype(np.int64)
