"""``sdst report``: a table or figure with our numbers beside the paper's, from what ``sdst sweep`` has run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.errors import Parser, UserError
from sdst.experiments import (
    SCALES,
    Experiment,
    experiments_dir,
    find_experiment,
    list_experiments,
    read_experiment,
)
from sdst.jsonfiles import write_atomically
from sdst.published import describe as describe_published
from sdst.reports import caption, render
from sdst.reports.noise import marks
from sdst.reports.plots import plot
from sdst.reports.results import Results, collect
from sdst.sweep import manifest, read_manifest

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

FORMATS = ("md", "csv", "latex")
PUBLISHED = ("tableO", "tableP")
"""Recomputed from the paper's own numbers; nothing is run for them."""


def main(argv: Sequence[str]) -> int:
    """Print a report, write it to a folder, or list all experiments."""
    args = _parser().parse_args(argv)
    folder = args.experiments or experiments_dir()
    if args.list:
        sys.stdout.write(_list(list_experiments(folder), args.runs))
    elif args.all:
        if args.out is None:
            raise UserError("sdst report --all: where to? give --out DIR")
        _write_all(args, folder)
    elif args.experiment is None:
        raise UserError("sdst report: which one? give its name, --all or --list")
    else:
        report = _Report(find_experiment(args.experiment, folder), args.scale, args.runs, folder)
        sys.stdout.write(report.text(args.format))
        if args.out is not None:
            report.write(args.out)
    return 0


class _Report:
    """All formats of one report.

    Args:
        experiment: The table or figure.
        scale: Of its sweep.
        runs: The folder of runs.
        experiments: The folder that has the other tables.
    """

    def __init__(self, experiment: Experiment, scale: str, runs: Path, experiments: Path) -> None:
        planned = read_manifest(manifest(runs, experiment.name, scale))
        self.results: Results = collect(experiment, scale, planned, runs)
        self.marks = marks(self.results)
        self.frame = caption.describe(self.results, set(self.marks.values()))
        self.published = describe_published(experiments) if experiment.name in PUBLISHED else ""

    def text(self, kind: str) -> str:
        """The report as Markdown, CSV or LaTeX; what was recomputed from published numbers is in Markdown alone."""
        if kind == "csv":
            return render.comma_separated(self.results, self.marks)
        if kind == "latex":
            return render.latex(self.results, self.marks, self.frame)
        text = render.markdown(self.results, self.marks, self.frame)
        return text if not self.published else f"{text}\n{self.published}"

    def write(self, folder: Path) -> None:
        """Write NAME.md, .csv and .tex, and NAME.png where a picture belongs to the experiment."""
        name = self.results.experiment.name
        folder.mkdir(parents=True, exist_ok=True)
        picture = plot(self.results, folder / f"{name}.png")
        shown = f"\n![{self.results.experiment.title}]({name}.png)\n" if picture else ""
        write_atomically(folder / f"{name}.md", self.text("md") + shown)
        write_atomically(folder / f"{name}.csv", self.text("csv"))
        write_atomically(folder / f"{name}.tex", self.text("latex"))


def _write_all(args: Namespace, folder: Path) -> None:
    """Every report, and an index of them."""
    rows = ["| | what | paper | state |", "|---|---|---|---|"]
    for path in list_experiments(folder):
        experiment = read_experiment(path)
        _Report(experiment, args.scale, args.runs, folder).write(args.out)
        state = _state(experiment, args.scale, args.runs)
        rows.append(
            f"| [{experiment.name}]({experiment.name}.md) | {experiment.title} | {experiment.source} | {state} |"
        )
    text = "\n".join([f"# All tables and figures, {args.scale} scale", "", *rows]) + "\n"
    write_atomically(args.out / "index.md", text)
    sys.stdout.write(f"{args.out / 'index.md'}\n")


def _list(paths: Sequence[Path], runs: Path) -> str:
    """Name, title, source and state of every experiment, for people and for ``cut``."""
    lines = []
    for path in paths:
        experiment = read_experiment(path)
        states = [f"{scale}: {_state(experiment, scale, runs)}" for scale in SCALES]
        lines.append("\t".join([experiment.name, experiment.source, experiment.title, *states]))
    return "\n".join(lines) + "\n"


def _state(experiment: Experiment, scale: str, runs: Path) -> str:
    if not experiment.jobs(scale):
        return "published numbers only"
    planned = read_manifest(manifest(runs, experiment.name, scale))
    if not planned:
        return "not run"
    found = collect(experiment, scale, planned, runs).runs
    counts = {name: sum(run.status == name for run in found) for name in ("finished", "failed", "missing")}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _parser() -> Parser:
    parser = Parser(
        prog="sdst report", description="Our numbers beside the paper's, from what sdst sweep has run."
    )
    add = parser.add_argument
    add("experiment", nargs="?", help="table5, figure4, ..., or the path of such a file")
    add("--list", action="store_true", help="name all experiments and what of them was run")
    add("--all", action="store_true", help="write every report and an index to --out")
    add("--scale", choices=SCALES, default="laptop", help="of the sweep (default: %(default)s)")
    runs = Path(os.environ.get("SDST_RUNS", "runs"))
    add("--runs", type=Path, default=runs, metavar="DIR", help="where the runs are (default: %(default)s)")
    add(
        "--experiments",
        type=Path,
        metavar="DIR",
        help="folder of the experiments (default: the repository's)",
    )
    add("--format", choices=FORMATS, default="md", help="what to print (default: %(default)s)")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write Markdown, CSV, LaTeX and a plot, if any, to this folder",
    )
    return parser
