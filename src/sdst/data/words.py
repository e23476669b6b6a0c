"""Words of queries, by which a model recognises what it was never trained on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
"""Letters and digits, also around an apostrophe."""


def words_of(queries: Iterable[str]) -> list[str]:
    """The different words of the queries in lower case, in the order in which they first occur."""
    return list(dict.fromkeys(word for query in queries for word in WORD.findall(query.lower())))
