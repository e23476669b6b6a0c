"""The description of a video of the small world, from which its pictures and its annotations are both made.

The world is a torus: what leaves the picture at one side enters it at the other. So a motion can last, and where a
thing is never tells which way it goes. Lengths are in pixels, y points down, times are in seconds, and the acts of
a thing begin and end with the clips.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.errors import UserError
from sdst.world.grammar import Fact

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SIDE = 128  # pixels
CLIP_SECONDS = 2
SPEED = 16.0  # pixels per second, of straight motions
CIRCLE_RADIUS, CIRCLE_SECONDS = 14.0, 3.0
BOUNCE_HEIGHT, SHAKE_WIDTH, PULSE_SHARE = 16.0, 8.0, 0.45
BEAT_SECONDS = 1.3  # of a bounce, a shake, a pulse
NEARING = 0.3  # share by which a thing looks larger when it is nearest, smaller when it is farthest


@dataclass(frozen=True, slots=True)
class Act:
    """What a thing does for a while.

    Attributes:
        first: Its first clip.
        end: The clip after its last.
        motion: One of the grammar's motions.
        x: Where it begins.
        y: Where it begins.
        pace: How fast; 1 is usual.
        phase: Where on its circle a circling thing begins, in radians.
    """

    first: int
    end: int
    motion: str
    x: float
    y: float
    pace: float
    phase: float


@dataclass(frozen=True, slots=True)
class Actor:
    """A thing with its acts; between them it is not there.

    Attributes:
        colour: The grammar's name for its colour.
        shape: The grammar's name for its shape.
        rgb: Its very colour.
        radius: Half its usual size.
        tilt: How far it is turned, in radians.
        nearest: A time at which it looks largest.
        nearing: Seconds from one such time to the next.
        acts: In order of time.
    """

    colour: str
    shape: str
    rgb: tuple[int, int, int]
    radius: float
    tilt: float
    nearest: float
    nearing: float
    acts: tuple[Act, ...]

    def fact(self, act: Act) -> Fact:
        """What a sentence about this act says."""
        return Fact(self.colour, self.shape, act.motion)


@dataclass(frozen=True, slots=True)
class Pillar:
    """A grey upright bar in front of everything else, from top to bottom."""

    x: float
    width: float
    grey: int


@dataclass(frozen=True, slots=True)
class Background:
    """A cloudy pattern that moves as a whole.

    Attributes:
        seed: Of the pattern.
        grey: Its mean brightness, 0-255.
        contrast: How far its brightness goes up and down.
        x: Where it is at the start.
        y: Where it is at the start.
        vx: Pixels per second.
        vy: Pixels per second.
    """

    seed: int
    grey: int
    contrast: int
    x: float
    y: float
    vx: float
    vy: float


@dataclass(frozen=True, slots=True)
class Camera:
    """It sways to and fro, by at most (x, y), in ``period`` seconds; at ``turn`` it is farthest."""

    x: float
    y: float
    period: float
    turn: float

    def shift(self, times: Floats) -> tuple[Floats, Floats]:
        """By how much the picture is displaced at each time, (N,) in x and y."""
        sway = np.cos(2 * np.pi * (times - self.turn) / self.period)
        return self.x * sway, self.y * sway


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole video.

    Attributes:
        vid: Its name.
        num_clips: Its length.
        noise: Standard deviation of the camera's noise, in grey levels.
        seed: Of the noise.
        background: Behind everything.
        camera: Displaces everything.
        pillars: In front of everything.
        actors: The farthest first; nearer ones hide it.
    """

    vid: str
    num_clips: int
    noise: float
    seed: int
    background: Background
    camera: Camera
    pillars: tuple[Pillar, ...]
    actors: tuple[Actor, ...]

    @property
    def duration(self) -> int:
        """Seconds."""
        return self.num_clips * CLIP_SECONDS

    def to_json(self) -> str:
        """The text of the scene's file."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class States:
    """Where a thing is at each of N times: (N,) its centre, half its size, and whether it is there at all."""

    x: Floats
    y: Floats
    radius: Floats
    present: NDArray[np.bool_]


def read_scene(path: Path) -> Scene:
    """The scene that a file describes.

    Raises:
        UserError: It cannot be read or describes none.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for actor in fields["actors"]:
            actor["rgb"] = tuple(actor["rgb"])
            actor["acts"] = tuple(Act(**act) for act in actor["acts"])
        fields["actors"] = tuple(Actor(**actor) for actor in fields["actors"])
        fields["pillars"] = tuple(Pillar(**pillar) for pillar in fields["pillars"])
        fields["background"] = Background(**fields["background"])
        fields["camera"] = Camera(**fields["camera"])
        return Scene(**fields)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: describes no scene; make the world again in another folder") from error


def actor_states(actor: Actor, times: Floats) -> States:
    """Where an actor is in the world at the given times (N,), before the camera's shift."""
    x, y, scale = np.zeros_like(times), np.zeros_like(times), np.ones_like(times)
    present = np.zeros(len(times), dtype=bool)
    for act in actor.acts:
        now = (times >= act.first * CLIP_SECONDS) & (times < act.end * CLIP_SECONDS)
        dx, dy, scale[now] = displacement(act, times[now] - act.first * CLIP_SECONDS)
        x[now], y[now] = act.x + dx, act.y + dy
        present |= now
    near = 1 + NEARING * np.cos(2 * np.pi * (times - actor.nearest) / actor.nearing)
    return States(x % SIDE, y % SIDE, actor.radius * near * scale, present)


def displacement(act: Act, seconds: Floats) -> tuple[Floats, Floats, Floats]:
    """How far an act has led from its beginning after some seconds (N,), in x and in y, and the size then.

    Raises:
        ValueError: There is no such motion.
    """
    s = act.pace * seconds
    still, same = np.zeros_like(s), np.ones_like(s)
    beat = 2 * np.pi * s / BEAT_SECONDS
    match act.motion:
        case "left":
            return -SPEED * s, still, same
        case "right":
            return SPEED * s, still, same
        case "up":
            return still, -SPEED * s, same
        case "down":
            return still, SPEED * s, same
        case "clockwise" | "counterclockwise":
            turn = 2 * np.pi * s / CIRCLE_SECONDS * (1 if act.motion == "clockwise" else -1)
            x = np.cos(act.phase + turn) - np.cos(act.phase)
            y = np.sin(act.phase + turn) - np.sin(act.phase)
            return CIRCLE_RADIUS * x, CIRCLE_RADIUS * y, same
        case "bounce":
            return still, -BOUNCE_HEIGHT * np.abs(np.sin(beat / 2)), same
        case "shake":
            return SHAKE_WIDTH * np.sin(beat), still, same
        case "pulse":
            return still, still, 1 + PULSE_SHARE * np.sin(beat)
        case "rest":
            return still, still, same
    raise ValueError(f"no motion is called {act.motion}")
