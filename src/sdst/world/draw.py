"""Random scenes: which things they contain, how these move, and when."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from sdst.world.grammar import COLOURS, MOTIONS, OPPOSITES, SHAPES, Fact
from sdst.world.scene import (
    CLIP_SECONDS,
    SIDE,
    Act,
    Actor,
    Background,
    Camera,
    Pillar,
    Scene,
    displacement,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

NUM_CLIPS = (40, 75)  # per video, with both ends, like all ranges in this file
LENGTHS = ((1, 5), (6, 15), (16, 30))  # clips of a short, a middle and a long act
LENGTH_SHARES = (0.5, 0.32, 0.18)
GRIDS = ((1, 2), (2, 1), (2, 2))  # numbers of colours and shapes of a video
GRID_SHARES = (0.25, 0.25, 0.5)
NUM_MOTIONS = 4  # per thing in a video
ABSENT = 0.4  # probability that a thing is absent instead of performing an act
MAX_PILLARS = 2
RGB = {
    "red": (215, 40, 40),
    "orange": (240, 140, 30),
    "yellow": (240, 225, 50),
    "green": (45, 175, 60),
    "cyan": (60, 215, 220),
    "blue": (45, 70, 220),
    "purple": (150, 55, 190),
    "white": (245, 245, 245),
}
RGB_SPREAD = 12


def draw_scene(
    vid: str, *, held_out: bool, rng: np.random.Generator, grid: tuple[int, int] | None = None
) -> Scene:
    """Draw a scene in which every thing shares its colour or its shape with another, and in half of the scenes both.

    Args:
        vid: The video's name.
        held_out: Whether things may show combinations that are held out from training; otherwise the scene has none.
        rng: Random generator.
        grid: Numbers of colours and of shapes that are combined; randomly one of ``GRIDS`` by default.
    """
    num_clips = int(rng.integers(*NUM_CLIPS, endpoint=True))
    num_colours, num_shapes = grid or GRIDS[rng.choice(len(GRIDS), p=GRID_SHARES)]
    looks = list(product(_choose(COLOURS, num_colours, rng), _choose(SHAPES, num_shapes, rng)))
    actors = [
        _draw_actor(colour, shape, num_clips, held_out, rng)
        for colour, shape in (looks[index] for index in rng.permutation(len(looks)))
    ]
    return Scene(
        vid=vid,
        num_clips=num_clips,
        noise=_between(4, 10, rng),
        seed=int(rng.integers(2**31)),
        background=Background(
            seed=int(rng.integers(2**31)),
            grey=int(rng.integers(75, 135)),
            contrast=int(rng.integers(12, 30)),
            x=_between(0, SIDE, rng),
            y=_between(0, SIDE, rng),
            vx=_between(-6, 6, rng),
            vy=_between(-6, 6, rng),
        ),
        camera=Camera(
            x=_between(0, 8, rng),
            y=_between(0, 8, rng),
            period=_between(20, 40, rng),
            turn=_between(0, 40, rng),
        ),
        pillars=tuple(
            Pillar(_between(0, SIDE, rng), _between(8, 16, rng), int(rng.integers(30, 70)))
            for _ in range(rng.integers(MAX_PILLARS + 1))
        ),
        actors=tuple(actors),
    )


def _draw_actor(colour: str, shape: str, num_clips: int, held_out: bool, rng: np.random.Generator) -> Actor:
    motions = _draw_motions(colour, shape, held_out, rng)
    rgb = np.array(RGB[colour]) + rng.integers(-RGB_SPREAD, RGB_SPREAD + 1, 3)
    red, green, blue = rgb.clip(0, 255).tolist()
    return Actor(
        colour=colour,
        shape=shape,
        rgb=(red, green, blue),
        radius=_between(9, 15, rng),
        tilt=_between(-0.25, 0.25, rng),
        nearest=_between(0, 40, rng),
        nearing=_between(20, 40, rng),
        acts=_draw_acts(motions, num_clips, rng),
    )


def _draw_motions(colour: str, shape: str, held_out: bool, rng: np.random.Generator) -> list[str]:
    """Draw the motions of a thing in a video: one motion, its opposite if it has one, and others."""
    known = [motion for motion in MOTIONS if not Fact(colour, shape, motion).held_out]
    allowed = list(MOTIONS) if held_out else known
    first = str(rng.choice([motion for motion in MOTIONS if motion not in known] if held_out else known))
    opposite = [OPPOSITES[first]] if OPPOSITES.get(first) in allowed else []
    others = [motion for motion in _choose(allowed, len(allowed), rng) if motion not in [first, *opposite]]
    return [first, *opposite, *others][:NUM_MOTIONS]


def _draw_acts(motions: list[str], num_clips: int, rng: np.random.Generator) -> tuple[Act, ...]:
    """Draw acts from the first clip to the last, with gaps; two acts without a gap between them differ in motion."""
    acts: list[Act] = []
    clip = 0
    x, y = _between(0, SIDE, rng), _between(0, SIDE, rng)
    last: str | None = ""
    while clip < num_clips:
        shortest, longest = LENGTHS[rng.choice(len(LENGTHS), p=LENGTH_SHARES)]
        end = min(num_clips, clip + int(rng.integers(shortest, longest, endpoint=True)))
        if last is not None and rng.random() < ABSENT:
            last = None
            x, y = _between(0, SIDE, rng), _between(0, SIDE, rng)
        else:
            last = str(rng.choice([motion for motion in motions if motion != last]))
            act = Act(clip, end, last, x, y, _between(0.75, 1.3, rng), _between(0, 2 * np.pi, rng))
            acts.append(act)
            dx, dy, _ = displacement(act, np.array([float((end - clip) * CLIP_SECONDS)]))
            x, y = (round(float(place) % SIDE, 3) for place in (x + dx[0], y + dy[0]))
        clip = end
    return tuple(acts)


def _choose(names: Iterable[str], count: int, rng: np.random.Generator) -> list[str]:
    return [str(name) for name in rng.permutation(list(names))[:count]]


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    """Draw a number between two others, rounded to three decimals so that it stays readable in a file."""
    return round(float(rng.uniform(low, high)), 3)
