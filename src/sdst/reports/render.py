"""A table as Markdown, LaTeX (booktabs) or CSV.

Markdown and LaTeX have up to three lines per row: ours, the paper's and the difference. CSV has one line per number.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.sweeps.tables import number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdst.reports.caption import Frame
    from sdst.reports.results import Cell, Results, RowResult
    from sdst.sweeps.tables import Column, Row

NOTHING = "–"
CSV_COLUMNS = (
    *("table", "scale", "row", "block", "column", "dataset", "split", "key"),
    *("mean", "std", "seeds", "paper", "paper_number", "difference", "mark", "state", "runs"),
)
MINUS = "\N{MINUS SIGN}"
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "σ": r"$\sigma$",
    "γ": r"$\gamma$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "–": "--",
    MINUS: "$-$",
}
_MARKDOWN = re.compile(r"([\\`*_|<])")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: label (only on a row's first line), whose numbers they are, and one text per column."""

    label: str
    whose: str
    cells: tuple[str, ...]


def shown_label(row: Row) -> str:
    """A row's label; the paper's "Ours" is SDST, because "ours" are our own runs here."""
    is_sdst = row.overrides == () and row.label.rstrip("†") == "Ours"
    return f"SDST ({row.label})" if is_sdst else row.label


def lines(results: Results, marks: Mapping[tuple[str, int], str]) -> list[Line]:
    """The table's lines in the order of its rows; a row of published numbers has only the paper's line."""
    table = []
    for row in results.rows:
        label = shown_label(row.row)
        if row.row.overrides is not None:
            state = results.state(row)
            whose = f"ours, n = {row.num_seeds}" if row.num_seeds else "ours"
            columns = results.experiment.columns
            ours = [
                _ours(cell, column, marks.get((row.row.label, i), ""))
                for i, (cell, column) in enumerate(zip(row.cells, columns, strict=True))
            ]
            table.append(Line(f"{label} [{state}]" if state else label, whose, tuple(ours)))
            label = ""
        if row.row.overrides is None or any(cell.paper for cell in row.cells):
            table.append(Line(label, "paper", tuple(cell.paper or NOTHING for cell in row.cells)))
        if any(cell.difference is not None for cell in row.cells):
            table.append(Line("", "difference", tuple(_difference(cell) for cell in row.cells)))
    return table


def markdown(results: Results, marks: Mapping[tuple[str, int], str], frame: Frame) -> str:
    """The table between its caption and its notes."""
    parts = [f"# {results.experiment.source}", "", plain_markdown(" ".join(frame.caption)), ""]
    columns = results.experiment.columns
    if columns:
        headers = ["", "", *(f"{c.title} {c.header}".strip() for c in columns)]
        parts.append(_markdown_line(headers))
        parts.append("|".join(["", "---", "---", *("---:" for _ in columns), ""]))
        parts += [_markdown_line([line.label, line.whose, *line.cells]) for line in lines(results, marks)]
        parts.append("")
    parts += [f"- {plain_markdown(note)}" for note in frame.notes]
    return "\n".join(parts) + "\n"


def latex(results: Results, marks: Mapping[tuple[str, int], str], frame: Frame) -> str:
    r"""A ``table*`` environment; it needs ``\usepackage{booktabs,graphicx}``."""
    columns = results.experiment.columns
    parts = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_latex(' '.join(frame.caption))}}}",
        rf"\label{{tab:{results.experiment.name}}}",
        r"\smallskip",
    ]
    if columns:
        blocks = _blocks(results)
        parts += [
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}",
            r"\toprule",
        ]
        if any(title for title, _ in blocks):
            heads = [rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(title)}}}" for title, n in blocks]
            parts.append(f" & & {' & '.join(heads)} \\\\")
            parts.append(" ".join(_rules(blocks)))
        parts.append(f" & & {' & '.join(escape_latex(c.header) for c in columns)} \\\\")
        for line in lines(results, marks):
            if line.label:
                parts.append(r"\midrule")
            # In braces: otherwise LaTeX reads a cell that begins with "[" as an argument of the preceding \\.
            cells = [f"{{{escape_latex(text)}}}" for text in (line.label, line.whose, *line.cells)]
            parts.append(f"{' & '.join(cells)} \\\\")
        parts += [r"\bottomrule", r"\end{tabular}}"]
    if frame.notes:
        parts.append(r"\par\smallskip\raggedright\scriptsize")
        parts += [rf"{escape_latex(note)}\par" for note in frame.notes]
    return "\n".join([*parts, r"\end{table*}"]) + "\n"


def comma_separated(results: Results, marks: Mapping[tuple[str, int], str]) -> str:
    """Every number at full precision, one line for each cell that has a number."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    experiment = results.experiment
    for row in results.rows:
        for index, (column, cell) in enumerate(zip(experiment.columns, row.cells, strict=True)):
            if cell.paper is None and not cell.values:
                continue
            place = (column.title, column.header, column.dataset, column.split, column.key)
            printed = number(cell.paper)
            seeds = " ".join(map(str, sorted(cell.values)))
            numbers = (cell.mean, cell.std, seeds, cell.paper, printed, cell.difference)
            mark, state = marks.get((row.row.label, index), ""), results.state(row)
            names = _runs(row, column.dataset)
            writer.writerow(
                (experiment.name, results.scale, row.row.label, *place, *numbers, mark, state, names)
            )
    return stream.getvalue()


def escape_latex(text: str) -> str:
    """Text that LaTeX prints unchanged; characters that its fonts may lack become question marks."""
    return "".join(_LATEX.get(character, character if character.isascii() else "?") for character in text)


def _ours(cell: Cell, column: Column, mark: str) -> str:
    if cell.mean is None:
        return NOTHING
    # All seeds have the same number of parameters.
    deviation = "" if cell.std is None or column.key == "parameters.total" else f" ± {cell.std:.2f}"
    return f"{cell.mean:.2f}{deviation}{mark}"


def _difference(cell: Cell) -> str:
    if cell.difference is None:
        return NOTHING
    return f"{cell.difference:+.2f}".replace("-", MINUS)


def _runs(row: RowResult, dataset: str | None) -> str:
    return " ".join(run.identity for run in row.runs if run.identity and dataset in (None, run.dataset))


def _blocks(results: Results) -> list[tuple[str, int]]:
    """Block headers above the column headers, with the number of columns that each spans."""
    blocks: list[tuple[str, int]] = []
    for column in results.experiment.columns:
        if blocks and blocks[-1][0] == column.title:
            blocks[-1] = (column.title, blocks[-1][1] + 1)
        else:
            blocks.append((column.title, 1))
    return blocks


def _rules(blocks: list[tuple[str, int]]) -> list[str]:
    """A rule below each block header that is not empty."""
    rules, first = [], 3  # columns 1 and 2 are label and whose
    for title, columns in blocks:
        if title:
            rules.append(rf"\cmidrule(lr){{{first}-{first + columns - 1}}}")
        first += columns
    return rules


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(map(plain_markdown, cells))} |"


def plain_markdown(text: str) -> str:
    """Text that Markdown shows unchanged."""
    return _MARKDOWN.sub(r"\\\1", text)
