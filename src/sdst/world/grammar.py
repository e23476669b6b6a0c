"""The sentences of the small world: its colours, shapes and motions, each with the words that name it.

Every fourth combination of the three is held out: no training scene shows it and no training sentence names it,
but any two of its parts occur together in training.
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
"""Motion -> the motion that it becomes when the video is played backwards; the other four do not change."""
HELD_OUT = 4  # every fourth combination
WITH_AN = ("orange", "emerald")


@dataclass(frozen=True, slots=True)
class Fact:
    """The content of a sentence: colour, shape and motion of a thing."""

    colour: str
    shape: str
    motion: str

    @property
    def held_out(self) -> bool:
        """Whether this combination is held out from training."""
        parts = (
            list(COLOURS).index(self.colour),
            list(SHAPES).index(self.shape),
            list(MOTIONS).index(self.motion),
        )
        return sum(parts) % HELD_OUT == 0


def all_facts() -> list[Fact]:
    """Return all combinations of colour, shape and motion."""
    return [Fact(*parts) for parts in product(COLOURS, SHAPES, MOTIONS)]


def sentence(fact: Fact, rng: np.random.Generator) -> str:
    """Return a random sentence for the fact, such as "A crimson disc drifts to the left."."""
    colour, shape, motion = (
        str(rng.choice(words)) for words in (COLOURS[fact.colour], SHAPES[fact.shape], MOTIONS[fact.motion])
    )
    article = rng.choice(["The", "An" if colour in WITH_AN else "A"])
    return f"{article} {colour} {shape} {motion}."


def vague_sentences() -> list[tuple[str, str]]:
    """Return all sentences that only name a motion, such as "Something rises.", with their motions."""
    return [(f"Something {words}.", motion) for motion, names in MOTIONS.items() for words in names]


def words() -> list[str]:
    """Return all words of all sentences, in lower case and sorted; hyphens and full stops are separate words."""
    spoken = " ".join(
        name for part in (COLOURS, SHAPES, MOTIONS) for names in part.values() for name in names
    )
    return sorted({*spoken.replace("-", " - ").split(), "a", "an", "the", "something", "."})
