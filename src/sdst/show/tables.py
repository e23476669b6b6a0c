"""Tables of a page as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from sdst.metrics.error_kinds import RIGHT_IOU
from sdst.runs.groups import grouped, mean
from sdst.runs.table import marks, short, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdst.runs.row import RunRow
    from sdst.show.wins import Wins


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, mark_differing: bool = False) -> str:
    """An HTML table whose first column has the row headers; optionally marks rows with differing values."""
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    lines = [f"<thead><tr>{cells}</tr></thead><tbody>"]
    for name, *values in rows:
        mark = ' class="differs"' if mark_differing and len(set(values)) > 1 else ""
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</tbody></table></div>'


def seeds_section(rows: Sequence[RunRow]) -> str:
    """Mean ± deviation over seeds of runs that differ in nothing else; "" unless some do."""
    groups = grouped(rows) if rows else []
    if all(len(group.runs) == 1 for group in groups):
        return ""
    names, options = shown(rows), list(groups[0].words)
    header = [*(options or ["runs"]), "seeds", *map(short, names), *marks(rows)]
    body = [
        [
            *(group.words.values() if options else ["all"]),
            str(len(group.runs)),
            *(mean(group.values(name)) for name in names),
            *([group.features] if marks(rows) else []),
        ]
        for group in groups
    ]
    return (
        '<section id="seeds"><h2>Mean ± deviation over seeds</h2>'
        f"<p>Grouped by what differs between configurations besides the seed.</p>{table(header, body)}</section>"
    )


def wins_section(wins: Sequence[Wins], first: str) -> str:
    """Wins and losses by query against the first run; "" without further runs."""
    if not wins:
        return ""
    header = ["", "queries", "better", "worse", "equal", "gained", "lost", "IoU difference"]
    body = [
        [
            run.name,
            *(
                f"{count:,}"
                for count in (run.queries, run.better, run.worse, run.equal, run.gained, run.lost)
            ),
            f"{run.difference:+.2f}",
        ]
        for run in wins
    ]
    return (
        f'<section id="wins"><h2>Wins and losses against {escape(first)}</h2>'
        f"<p>By the IoU of the first prediction of each query. Gained and lost: right (IoU ≥ {RIGHT_IOU:g}) in only "
        f"this run, or only in {escape(first)}. The difference is of the mean IoU, in percent.</p>"
        f"{table(header, body)}</section>"
    )
