"""Output of a benchmark's rows as a table on the terminal and as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from sdst.files.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Row = dict[str, Any]
"""Column -> text, number, ``Spread`` or None; a column's name ends in its unit."""


def show(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table, transposed if there are more columns than rows; rows may lack columns."""
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(column for row in rows for column in row))
    grid = [[column.replace("_", " ") for column in columns]]
    grid += [[_text(row.get(column)) for column in columns] for row in rows]
    if len(columns) > len(rows):
        grid = [list(line) for line in zip(*grid, strict=True)]
    table = Table(*grid[0], title=title)
    for line in grid[1:]:
        table.add_row(*line)
    Console(file=sys.stdout, markup=False).print(table)


def write(folder: Path, name: str, rows: Sequence[Row], facts: dict[str, Any]) -> None:
    """Write NAME.json with the rows and the description of the machine."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, **facts, "rows": rows}
    write_atomically(folder / f"{name}.json", json.dumps(content, indent=2, default=_plain) + "\n")


def write_text(folder: Path, name: str, text: str) -> None:
    """Write NAME.md."""
    write_atomically(folder / f"{name}.md", f"{text}\n")


def cell(value: object) -> str:
    """A value as text for a cell of a Markdown table."""
    return _text(value).replace("|", "\\|")


def _plain(value: object) -> dict[str, Any]:
    assert is_dataclass(value)
    assert not isinstance(value, type)
    return asdict(value)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
