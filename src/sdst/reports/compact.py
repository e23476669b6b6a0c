"""A table of our numbers alone, as Markdown whose columns are aligned, so that it is readable in a terminal too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdst.reports.caption import commits, data_sentences
from sdst.reports.render import NOTHING, plain_markdown, shown_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.reports.results import Cell, Results, RowResult, Run

LOWER_IS_BETTER = "peak_memory_gb"
NOT_RANKED = "parameters.total"


def compact(results: Results) -> str:
    """The rows that run at this scale, the columns that have a number, and one paragraph of caption."""
    experiment = results.experiment
    rows = [row for row in results.rows if row.row.is_run_at(results.scale) and row.runs]
    columns = [
        index for index in range(len(experiment.columns)) if any(row.cells[index].values for row in rows)
    ]
    if not columns:
        return f"{_caption(results, columns)}\n"
    headers = [
        f"{column.title} {column.header}".strip()
        for column in (experiment.columns[index] for index in columns)
    ]
    cells = [_column(results, rows, index) for index in columns]
    labels = [_label(results, row) for row in rows]
    lines = _aligned([["", *headers], *([label, *line] for label, *line in zip(labels, *cells, strict=True))])
    return f"{_caption(results, columns)}\n\n{lines}\n"


def _caption(results: Results, columns: Sequence[int]) -> str:
    experiment = results.experiment
    name = f"{experiment.title} ({experiment.source})"
    if not experiment.jobs("paper"):
        return f"{name}: this table has no runs, only the paper's numbers."
    finished = [run for run in results.runs if run.status == "finished"]
    if not finished:
        return f"{name}: no finished runs at {results.scale} scale."
    splits = sorted({split for index in columns if (split := experiment.columns[index].split)})
    facts = [f"split {' and '.join(splits)}"] if splits else []
    datasets = sorted({run.metrics["dataset"] for run in finished})
    facts += [f"{results.scale} scale, data {' and '.join(datasets)}", _seeds(finished)]
    facts += [f"commit {commits(finished)}"]
    sentences = [f"{name}: {'; '.join(facts)}.", *data_sentences(finished)]
    if results.overrides:
        sentences.append(f"All jobs have overrides: {', '.join(results.overrides)}.")
    return " ".join([*sentences, "Bold: best mean of the column."])


def _seeds(finished: Sequence[Run]) -> str:
    seeds = sorted({run.seed for run in finished})
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"


def _label(results: Results, row: RowResult) -> str:
    state = results.state(row)
    return f"{shown_label(row.row)} [{state}]" if state else shown_label(row.row)


def _column(results: Results, rows: Sequence[RowResult], index: int) -> list[str]:
    """Texts of a column; the best of several means is bold, as are those that print the same."""
    key = results.experiment.columns[index].key
    cells = [row.cells[index] for row in rows]
    means = [round(cell.mean, 2) for cell in cells if cell.mean is not None]
    best = (min if key == LOWER_IS_BETTER else max)(means) if len(set(means)) > 1 else None
    return [
        _text(cell, cell.mean is not None and key != NOT_RANKED and round(cell.mean, 2) == best)
        for cell in cells
    ]


def _text(cell: Cell, bold: bool) -> str:
    if cell.mean is None:
        return NOTHING
    mean = f"**{cell.mean:.2f}**" if bold else f"{cell.mean:.2f}"
    deviation = "0.00" if cell.std is None else f"{cell.std:.2f}"
    return mean if deviation == "0.00" else f"{mean} ± {deviation}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with padded cells: labels left, numbers right; the first line is the header."""
    # The numbers' asterisks make them bold; headers and labels show theirs.
    head, *body = lines
    plain = [list(map(plain_markdown, head)), *([plain_markdown(label), *cells] for label, *cells in body)]
    widths = [max(3, *map(len, column)) for column in zip(*plain, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))]
        for line in (plain[0], rule, *plain[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
