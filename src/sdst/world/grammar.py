"""The sentences of the small world: its colours, shapes and motions, each with the words that name it.

Every fourth combination of the three is held out: no training scene shows it and no training sentence names it,
though each two of its parts occur together in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

COLOURS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue", "navy"),
    "purple": ("purple", "violet"),
    "white": ("white", "snowy"),
}
SHAPES = {
    "disc": ("disc", "circle", "ball"),
    "ring": ("ring", "hoop"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "cross": ("cross", "plus sign"),
    "star": ("star", "five-pointed star"),
}
MOTIONS = {
    "left": ("drifts to the left", "moves left", "slides leftwards", "glides towards the left"),
    "right": ("drifts to the right", "moves right", "slides rightwards", "glides towards the right"),
    "up": ("rises", "floats up", "moves upwards", "climbs"),
    "down": ("sinks", "falls slowly", "moves down", "descends"),
    "clockwise": ("circles clockwise", "goes round clockwise", "moves in clockwise circles"),
    "counterclockwise": (
        "circles counterclockwise",
        "goes round anticlockwise",
        "moves in anticlockwise circles",
    ),
    "bounce": ("bounces", "hops", "jumps up and down"),
    "shake": ("shakes", "trembles from side to side", "wobbles sideways"),
    "pulse": ("pulses", "throbs", "swells and shrinks again and again"),
    "rest": ("rests", "stays still", "does not move"),
}
OPPOSITES = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
}
"""Motions that become each other when the video is played backwards; the other four stay what they are."""
HELD_OUT = 4  # every fourth combination
WITH_AN = ("orange", "emerald")


@dataclass(frozen=True, slots=True)
class Fact:
    """What a sentence says: which shape of which colour moves in which way."""

    colour: str
    shape: str
    motion: str

    @property
    def held_out(self) -> bool:
        """Whether training must not know this combination."""
        parts = (
            list(COLOURS).index(self.colour),
            list(SHAPES).index(self.shape),
            list(MOTIONS).index(self.motion),
        )
        return sum(parts) % HELD_OUT == 0


def all_facts() -> list[Fact]:
    """Every combination there is."""
    return [Fact(*parts) for parts in product(COLOURS, SHAPES, MOTIONS)]


def sentence(fact: Fact, rng: np.random.Generator) -> str:
    """One of the ways to say it, such as "A crimson disc drifts to the left."."""
    colour, shape, motion = (
        str(rng.choice(words)) for words in (COLOURS[fact.colour], SHAPES[fact.shape], MOTIONS[fact.motion])
    )
    article = rng.choice(["The", "An" if colour in WITH_AN else "A"])
    return f"{article} {colour} {shape} {motion}."


def vague_sentences() -> list[tuple[str, str]]:
    """Every sentence about a motion alone, such as "Something rises.", and the motion it means."""
    return [(f"Something {words}.", motion) for motion, names in MOTIONS.items() for words in names]


def words() -> list[str]:
    """Every word that a sentence may have, in lower case, sorted; hyphens and full stops stand alone."""
    spoken = " ".join(
        name for part in (COLOURS, SHAPES, MOTIONS) for names in part.values() for name in names
    )
    return sorted({*spoken.replace("-", " - ").split(), "a", "an", "the", "something", "."})
