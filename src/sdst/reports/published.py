"""App. M recomputed from the numbers of Tab. 1 and 2, and compared with Tab. O, Tab. P and the text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from sdst.errors import UserError
from sdst.reports.statistics import Friedman, friedman, nemenyi, rank_columns
from sdst.sweeps.tables import number, read_experiment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sdst.sweeps.tables import Experiment

OURS = "Ours†"
LABELS_IN_TABLE_2 = {"Moment-DETR": "M-DETR", "Flash-VTG†": "FlashVTG†"}
"""Methods of Tab. O that Tab. 2 spells differently."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Numbers of several methods.

    Attributes:
        methods: Labels of Tab. O.
        columns: Names of the form "header of the block, header of the column".
        values: (methods, columns), NaN where a cell is missing.
    """

    methods: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]

    def complete(self, drop: Literal["columns", "methods"]) -> Scores:
        """The scores without the columns that lack a number, or without the methods that lack one."""
        missing = np.isnan(self.values)
        keep_methods = ~missing.any(axis=1) if drop == "methods" else np.ones(len(self.methods), bool)
        keep_columns = ~missing.any(axis=0) if drop == "columns" else np.ones(len(self.columns), bool)
        return Scores(
            tuple(np.array(self.methods)[keep_methods].tolist()),
            tuple(np.array(self.columns)[keep_columns].tolist()),
            self.values[keep_methods][:, keep_columns],
        )


@dataclass(frozen=True, slots=True)
class RankDifference:
    """A rank in Tab. O that disagrees with the numbers in Tab. 1 or 2."""

    method: str
    column: str
    printed: float
    computed: float


@dataclass(frozen=True, slots=True)
class Significance:
    """Friedman's test, and p-values of Nemenyi's test of SDST against every other method."""

    friedman: Friedman
    nemenyi: Mapping[str, float]


def main_results(folder: str | Path) -> Scores:
    """The columns of Tab. O taken from Tab. 1 (test split) and Tab. 2, for the methods of Tab. O.

    Args:
        folder: Folder of the experiments.

    Raises:
        UserError: A file or a row is missing.
    """
    methods = tuple(row.label for row in _read(folder, "tableO").rows)
    parts = []
    for name, labels in (("table1", methods), ("table2", [LABELS_IN_TABLE_2.get(m, m) for m in methods])):
        # Tab. 2 has a dagger wherever Tab. 1 has one, and all its columns are test splits.
        table = _read(folder, name)
        parts.append(
            _scores(table, labels, [i for i, column in enumerate(table.columns) if column.split == "test"])
        )
    names = parts[0].columns + parts[1].columns
    return Scores(methods, names, np.hstack([part.values for part in parts]))


def rank_differences(folder: str | Path) -> list[RankDifference]:
    """Ranks of Tab. O that disagree with the numbers; ties get dense ranks (1, 1, 2), as in Tab. O."""
    scores, table = main_results(folder), _read(folder, "tableO")
    printed = _scores(table, scores.methods, range(len(table.columns))).values
    computed = rank_columns(scores.values, ties="dense")
    return [
        RankDifference(scores.methods[m], scores.columns[c], float(printed[m, c]), float(computed[m, c]))
        for m, c in np.argwhere(~np.isclose(printed, computed, equal_nan=True))
    ]


def significance(scores: Scores) -> Significance:
    """Friedman's and Nemenyi's tests on complete scores."""
    pvalues = nemenyi(scores.values)[scores.methods.index(OURS)]
    others = {m: float(p) for m, p in zip(scores.methods, pvalues, strict=True) if m != OURS}
    return Significance(friedman(scores.values), others)


def describe(folder: str | Path) -> str:
    """App. M as Markdown: results of the tests, claims of the paper, and where they disagree.

    Raises:
        UserError: A file is missing, or scikit-posthocs is not installed.
    """
    scores = main_results(folder)
    fewer_columns, fewer_methods = scores.complete("columns"), scores.complete("methods")
    by_columns, by_methods = significance(fewer_columns), significance(fewer_methods)
    dropped_columns = [name for name in scores.columns if name not in fewer_columns.columns]
    differences = rank_differences(folder)
    lines = [
        f"Tab. 1 (test) and 2 have {len(scores.methods)} methods and {len(scores.columns)} columns; some cells are "
        "missing.",
        "Both tests need complete data, so each is computed twice:",
        "",
        f"- without columns that lack a number ({'; '.join(dropped_columns)}): {_summary(by_columns, fewer_columns)}",
        f"- without methods that lack a number: {_summary(by_methods, fewer_methods)}",
        "",
        "App. M.1 says that the p-value of Friedman's test is above 0.05, that the null hypothesis of equal methods is "
        "therefore rejected, and that the methods do not differ. The first and third statements agree; the second "
        f"contradicts both. The numbers give a p-value far below {ALPHA}: the null hypothesis is rejected, and the "
        "methods differ.",
        "",
        f"Tab. P reports that SDST differs from all methods except SG-DETR (p < {ALPHA}). Nemenyi's test does not "
        "confirm this with either choice. The printed p-values are closer to those of Wilcoxon's signed-rank test "
        "(normal approximation) on pairs of rows of Tab. O, which does not correct for multiple comparisons:",
        "",
        "| SDST against | Tab. P | Nemenyi, fewer columns | Nemenyi, fewer methods | Wilcoxon on Tab. O |",
        "|---|---|---|---|---|",
    ]
    printed = {row.label: row.paper[0] for row in _read(folder, "tableP").rows}
    for method, pvalue in by_columns.nemenyi.items():
        name, other = method.rstrip("†"), by_methods.nemenyi.get(method)
        cells = [name, printed[name] or "", *(map(_digits, (pvalue, other, _wilcoxon(folder, method))))]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{len(differences)} ranks of Tab. O disagree with the printed numbers:", ""]
    lines += [
        f"- {d.method}, {d.column}: printed {d.printed:g}, computed {d.computed:g}" for d in differences
    ]
    return "\n".join(lines) + "\n"


def _summary(result: Significance, scores: Scores) -> str:
    same = [method for method, pvalue in result.nemenyi.items() if pvalue >= ALPHA]
    nemenyi = f"does not differ from {', '.join(same)}" if same else "differs from all of them"
    return (
        f"{len(scores.methods)} methods, {len(scores.columns)} columns, Friedman {result.friedman.statistic:.2f}, "
        f"p = {result.friedman.pvalue:.1e}; by Nemenyi's test SDST {nemenyi}."
    )


def _digits(pvalue: float | None) -> str:
    if pvalue is None:
        return ""
    return f"{pvalue:.4f}" if pvalue >= 0.0001 else "< 0.0001"


def _wilcoxon(folder: str | Path, method: str) -> float:
    """P-value of Wilcoxon's test of a method's printed ranks against SDST's, over their common columns."""
    table = _read(folder, "tableO")
    ours, other = _scores(table, [OURS, method], range(len(table.columns))).values
    difference = (ours - other)[~np.isnan(ours - other)]
    return float(stats.wilcoxon(difference, method="approx").pvalue)


def _scores(table: Experiment, labels: Sequence[str], columns: Sequence[int]) -> Scores:
    rows = {row.label: row for row in table.rows}
    if missing := [label for label in labels if label not in rows]:
        raise UserError(
            f"{table.name}.yaml: row '{missing[0]}' is missing; use the same label as in the other tables"
        )
    cells = [[number(rows[label].paper[column]) for column in columns] for label in labels]
    names = (f"{table.columns[column].title}, {table.columns[column].header}" for column in columns)
    return Scores(tuple(labels), tuple(names), np.array(cells, dtype=np.float64))


def _read(folder: str | Path, name: str) -> Experiment:
    return read_experiment(Path(folder) / f"{name}.yaml")
