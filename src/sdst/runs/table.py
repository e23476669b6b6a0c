"""The table of a multirun's jobs: what differs, state, metrics of the best checkpoint, folder."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.config.words import differing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.runs.row import RunRow

SHOWN = (
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "MR-full-mAP",
    "MR-full-mIoU",
    "HL-min-VeryGood-mAP",
    "HL-min-VeryGood-Hit1",
    "mAP",
)
"""Metrics of the printed table, as far as the runs have them; the CSV has all."""


def as_text(rows: Sequence[RunRow]) -> str:
    """The table in aligned columns: what differs, state, metrics of the best checkpoint, folder."""
    keys = differing([row.words for row in rows])
    metrics = shown(rows)
    marked = marks(rows)
    header = [*keys, "state", *(short(name) for name in metrics), *marked, "folder"]
    body = [
        [
            *(row.words.get(key, "") for key in keys),
            row.state,
            *(_cell(row.metrics, name) for name in metrics),
            *(row.features for _ in marked),
            ": ".join(filter(None, (str(relative(row.folder)) if row.folder else "", row.reason))),
        ]
        for row in rows
    ]
    return _aligned([header, *body])


def as_csv(rows: Sequence[RunRow]) -> str:
    """The table with all words that differ and all metrics, unrounded."""
    keys = differing([row.words for row in rows])
    names = list(dict.fromkeys(name for row in rows for name in row.metrics or {}))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    marked = marks(rows)
    writer.writerow([*keys, "state", *names, *marked, "folder", "reason"])
    for row in rows:
        values = [(row.metrics or {}).get(name, "") for name in names]
        writer.writerow(
            [
                *(row.words.get(key, "") for key in keys),
                *(row.state, *values),
                *(row.features for _ in marked),
                *(row.folder or "", row.reason),
            ]
        )
    return file.getvalue()


def shown(rows: Sequence[RunRow]) -> list[str]:
    """Names of the printed metrics: :data:`SHOWN` on the splits that selected checkpoints, and what selected them."""
    splits = list(dict.fromkeys(row.split for row in rows if row.split))
    wanted = dict.fromkeys(f"{split} {name}" for split in splits for name in SHOWN)
    wanted |= dict.fromkeys(f"{row.split} {row.metric}" for row in rows if row.split)
    return [name for name in wanted if any(row.metrics and name in row.metrics for row in rows)]


def marks(rows: Sequence[RunRow]) -> list[str]:
    """Header of the column that marks simulated features, only if a run has them."""
    return ["features"] if any(row.features for row in rows) else []


def short(name: str) -> str:
    """A metric's name without the parts that all share."""
    return name.replace("MR-full-", "").replace("HL-min-VeryGood-", "HL ")


def _cell(metrics: Mapping[str, float] | None, name: str) -> str:
    return f"{metrics[name]:.2f}" if metrics and name in metrics else ""


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
    return "".join(f"{line}\n" for line in lines)


def relative(path: Path) -> Path:
    """The path as seen from here, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
