"""Overrides whose value is a path or a name as it was typed, which Hydra's grammar cannot read or would misread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

PATHS = ("run_dir", "paths.", "data.features", "data.annotations.")
"""Options, or beginnings of options, that hold a path."""
NAMES = ("group", "name")
"""Options that hold a name of the user's choice."""


def quoted(value: object) -> str:
    """Write a value in Hydra's override grammar; it may have any characters."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def unquoted(value: str) -> str:
    """A value without the quotes that Hydra's grammar would need."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1].replace(f"\\{value[0]}", value[0]) if is_quoted else value


def readable(override: str, *, is_multirun: bool) -> str:
    """An override for Hydra, in which the value of a path or name is quoted if it was meant literally.

    That is so if Hydra's grammar has no such value (``data.features=特征.h5``), if it would be a number
    (``name=007``), and, in a single run, if it looks like several values but cannot be (``epoch=3,step=99.h5``, or a
    file of that name). In a multirun, commas separate values.
    """
    key, _, value = override.partition("=")
    option = key.lstrip("+")
    is_path = option.startswith(PATHS)
    if not value or not (is_path or option in NAMES):
        return override
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        if value[0] in "'\"":
            return override
        return f"{key}={','.join(map(quoted, value.split(',') if is_multirun else [value]))}"
    if _is_number(parsed):
        return f"{key}={quoted(value)}"
    if is_path and not is_multirun and parsed.is_choice_sweep() and not value.startswith("choice("):
        one = option == "run_dir" or "=" in value or Path(value).exists()
        return f"{key}={quoted(value)}" if one else override
    return override


def _is_number(parsed: Override) -> bool:
    return not parsed.is_sweep_override() and isinstance(parsed.value(), bool | int | float)


def as_typed(override: str) -> str:
    """An override with its value in quotes, as it should be typed in a shell."""
    key, _, value = override.partition("=")
    text = f"{key}={quoted(value)}"
    if any(character in text for character in '"$`\\!'):
        return "'" + text.replace("'", "'\\''") + "'"
    return f'"{text}"'
