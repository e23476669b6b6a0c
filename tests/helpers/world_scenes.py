"""Small scenes of the synthetic world, each described in one line."""

from dataclasses import replace
from itertools import product
from typing import Any

from sdst.world.grammar import COLOURS, MOTIONS, SHAPES, Fact, all_facts
from sdst.world.scene import Act, Actor, Background, Camera, Pillar, Scene

MEANINGS = {
    f"{colour} {shape} {motion}": fact
    for fact in all_facts()
    for colour, shape, motion in product(COLOURS[fact.colour], SHAPES[fact.shape], MOTIONS[fact.motion])
}


def meaning(text: str) -> Fact:
    """Return the fact that a sentence of one phrase states."""
    return MEANINGS[text.rstrip(".").split(" ", 1)[1]]


def act(motion: str, x: float, y: float, first: int = 0, end: int = 4, **more: float) -> Act:
    return replace(Act(first, end, motion, x, y, pace=1.0, phase=0.0), **more)


def actor(*acts: Act, colour: str = "red", shape: str = "disc", **more: Any) -> Actor:
    plain = Actor(colour, shape, (220, 0, 0), radius=10.0, tilt=0.0, nearest=0.0, nearing=30.0, acts=acts)
    return replace(plain, **more)


def scene(*actors: Actor, num_clips: int = 4, pillars: tuple[Pillar, ...] = (), **more: Any) -> Scene:
    """Scene without noise in which, by default, only the actors move."""
    plain = Scene(
        "v",
        num_clips,
        noise=0.0,
        seed=0,
        background=Background(seed=0, grey=100, contrast=20, x=0.0, y=0.0, vx=0.0, vy=0.0),
        camera=Camera(x=0.0, y=0.0, period=30.0, turn=0.0),
        pillars=pillars,
        actors=actors,
    )
    return replace(plain, **more)
