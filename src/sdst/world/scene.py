"""The description of a video of the small world, from which both its pictures and its annotations are made.

The world is a torus: things that leave the picture at one side enter it at the other. Therefore a motion can last, and
the position of a thing says nothing about its direction. Lengths are in pixels, y points down, times are in seconds,
and acts begin and end at the borders of clips.
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
SPEED = 16.0  # of straight motions, in pixels per second
CIRCLE_RADIUS, CIRCLE_SECONDS = 14.0, 3.0
BOUNCE_HEIGHT, SHAKE_WIDTH, PULSE_SHARE = 16.0, 8.0, 0.45
BEAT_SECONDS = 1.3  # period of a bounce, a shake or a pulse
NEARING = 0.3  # share by which a thing looks larger when it is nearest, and smaller when it is farthest


@dataclass(frozen=True, slots=True)
class Act:
    """One motion of a thing during some clips.

    Attributes:
        first: The first clip.
        end: The clip after the last.
        motion: One of the grammar's motions.
        x: Start position, from the left.
        y: Start position, from the top.
        pace: Factor on the usual speed.
        phase: Angle on its circle at which a circling thing starts, in radians.
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
    """A thing with its acts; between acts it is absent.

    Attributes:
        colour: The grammar's name for its colour.
        shape: The grammar's name for its shape.
        rgb: Exact colour.
        radius: Half its usual size.
        tilt: Angle by which it is turned, in radians.
        nearest: A time at which it looks largest.
        nearing: Seconds from one such time to the next.
        acts: Acts in order of time.
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
        """Return the fact that a sentence about this act states."""
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
        seed: Random seed of the pattern.
        grey: Mean brightness, 0-255.
        contrast: Variation of the brightness, in grey levels.
        x: Start position, from the left.
        y: Start position, from the top.
        vx: Speed to the right in pixels per second.
        vy: Speed downwards in pixels per second.
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
    """A camera that sways by at most (x, y) with a period of ``period`` seconds; at ``turn`` it is farthest."""

    x: float
    y: float
    period: float
    turn: float

    def shift(self, times: Floats) -> tuple[Floats, Floats]:
        """Return the displacement of the picture at each time, (N,) in x and (N,) in y."""
        sway = np.cos(2 * np.pi * (times - self.turn) / self.period)
        return self.x * sway, self.y * sway


@dataclass(frozen=True, slots=True)
class Scene:
    """A whole video.

    Attributes:
        vid: The video's name.
        num_clips: Length in clips.
        noise: Standard deviation of the camera's noise, in grey levels.
        seed: Random seed of the noise.
        background: Background behind all things.
        camera: Camera whose sway displaces everything.
        pillars: Pillars in front of everything.
        actors: Things from the farthest to the nearest; nearer ones hide farther ones.
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
        """Length in seconds."""
        return self.num_clips * CLIP_SECONDS

    def to_json(self) -> str:
        """Return the text of the scene's file."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class States:
    """The state of a thing at N times, each (N,): its centre, half its size, and whether it is present."""

    x: Floats
    y: Floats
    radius: Floats
    present: NDArray[np.bool_]


def read_scene(path: Path) -> Scene:
    """Read the scene that a file describes.

    Raises:
        UserError: The file cannot be read or does not describe a scene.
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
        raise UserError(f"{path}: cannot read the file ({error.strerror}); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: the file does not describe a scene; make the world again in another folder"
        ) from error


def actor_states(actor: Actor, times: Floats) -> States:
    """Return the states of an actor at the given times (N,), before the camera's shift."""
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
    """Return the displacement in x and y since the start of an act after some seconds (N,), and the factor on the size.

    Raises:
        ValueError: The act's motion is unknown.
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
    raise ValueError(f"unknown motion {act.motion!r}")
