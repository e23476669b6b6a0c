"""Letters that matplotlib's own font lacks, such as Chinese and Japanese ones, from the fonts of the system."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

OWN = "DejaVu Sans"
"""The font that comes with matplotlib."""
FIRST = (
    "noto sans cjk",
    "notosanscjk",
    "source han",
    "wqy",
    "droid sans fallback",
    "ipa",
    "takao",
    "arial unicode",
)
"""Parts of file names of fonts with many letters, which are tried first."""
INVISIBLE = frozenset("\n\t\u200b\u200c\u200d\u200e\u200f\ufe0e\ufe0f")


def use_fonts_for(figure: Figure) -> None:
    """Give all texts of a figure the fonts that have their letters; other letters become a question mark.

    Logs one line if there are such letters.
    """
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]
    wanted = {letter for text in texts for letter in text.get_text()} - INVISIBLE
    lacking = {letter for letter in wanted if ord(letter) not in _own_letters()}
    if not lacking:
        return
    families = [OWN]
    left = set(lacking)
    for path in _installed():
        if not left:
            break
        family, letters = _letters(path)
        if found := {letter for letter in left if ord(letter) in letters}:
            families.append(_registered(path, family))
            left -= found
    if left:
        logger.warning(
            "no installed font has %d of the letters in this picture, such as %s; they are drawn as ?. Install a font "
            "that has them, such as Noto Sans CJK",
            len(left),
            " ".join(sorted(left)[:3]),
        )
    without = str.maketrans(dict.fromkeys(left, "?"))
    for text in texts:
        if not lacking.isdisjoint(text.get_text()):
            text.set_text(text.get_text().translate(without))
            text.set_fontfamily(families)


@cache
def _own_letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont(OWN)).get_charmap())


def _installed() -> list[str]:
    """Font files of the system, those that are likely to have many letters first."""
    from matplotlib.font_manager import findSystemFonts

    def rank(path: str) -> tuple[bool, str]:
        name = path.replace("-", " ").replace("_", " ").lower()
        return not any(part in name for part in FIRST), path

    return sorted(findSystemFonts(), key=rank)


@cache
def _letters(path: str) -> tuple[str, frozenset[int]]:
    """Family and code points of a font file; none if it cannot be read or scaled."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (RuntimeError, OSError):
        return "", frozenset()
    return font.family_name, frozenset(font.get_charmap() if font.scalable else ())


def _registered(path: str, family: str) -> str:
    """The family of a font file, after matplotlib knows it; its own list may be older than the font."""
    from matplotlib.font_manager import fontManager

    if not any(font.fname == path for font in fontManager.ttflist):
        fontManager.addfont(path)
    return family
