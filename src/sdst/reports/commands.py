"""``sdst report``: a table or figure with our numbers beside the paper's, from what ``sdst sweep`` has run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.console.parser import Parser
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.reports import caption, render, speed
from sdst.reports.noise import marks
from sdst.reports.overview import duration, overview, records, training_seconds
from sdst.reports.plots import plot
from sdst.reports.published import describe as describe_published
from sdst.reports.results import Results, collect
from sdst.sweeps.commands import manifest, read_manifest
from sdst.sweeps.tables import (
    SCALES,
    Experiment,
    experiments_dir,
    find_experiment,
    list_experiments,
    read_experiment,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

FORMATS = ("md", "csv", "latex")
APPENDICES = {"tableD": speed.describe, "tableO": describe_published, "tableP": describe_published}
"""What follows a table in Markdown alone, from the folder of experiments."""
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
        appendix = APPENDICES.get(experiment.name)
        self.appendix = appendix(experiments) if appendix else ""

    def text(self, kind: str) -> str:
        """The report as Markdown, CSV or LaTeX."""
        if kind == "csv":
            return render.comma_separated(self.results, self.marks)
        if kind == "latex":
            return render.latex(self.results, self.marks, self.frame)
        text = render.markdown(self.results, self.marks, self.frame)
        return f"{text}\n{self.appendix}" if self.appendix else text

    def write(self, folder: Path) -> bool:
        """Write NAME.md, .csv and .tex, and NAME.png where a picture belongs to the experiment; whether one does."""
        name = self.results.experiment.name
        folder.mkdir(parents=True, exist_ok=True)
        picture = plot(self.results, folder / f"{name}.png")
        shown = f"\n![{self.results.experiment.title}]({name}.png)\n" if picture else ""
        others = f"\nThe same as [CSV]({name}.csv) and [LaTeX]({name}.tex).\n"
        write_atomically(folder / f"{name}.md", self.text("md") + shown + others)
        write_atomically(folder / f"{name}.csv", self.text("csv"))
        write_atomically(folder / f"{name}.tex", self.text("latex"))
        return picture


def _write_all(args: Namespace, folder: Path) -> None:
    """Every report, and an index of them with their pictures."""
    entries = overview([read_experiment(path) for path in list_experiments(folder)], args.scale, args.runs)
    rows = ["| | what | paper | state | training |", "|---|---|---|---|---|"]
    pictures = []
    for entry in entries:
        name, title = entry.experiment.name, entry.experiment.title
        if _Report(entry.experiment, args.scale, args.runs, folder).write(args.out):
            pictures += [f"## [{title}]({name}.md)", "", f"![{title}]({name}.png)", ""]
        cells = (f"[{name}]({name}.md)", title, entry.experiment.source, entry.state, entry.cost)
        rows.append(f"| {' | '.join(cells)} |")
    runs = [run for entry in entries for run in entry.runs]
    parts = [f"# All tables and figures, {args.scale} scale", "", *rows, ""]
    if runs:
        jobs = len({run.identity for run in runs if run.status == "finished"})
        parts += [
            f"Training all {jobs} finished jobs took {duration(training_seconds(runs))}. The times above count a job "
            "in each of the tables that share it.",
            "",
        ]
    write_atomically(args.out / "runs.jsonl", records(entries))
    parts += ["The numbers and the origin of every job are in [runs.jsonl](runs.jsonl).", ""] if runs else []
    write_atomically(args.out / "index.md", "\n".join([*parts, *pictures]))
    sys.stdout.write(f"{args.out / 'index.md'}\n")


def _list(paths: Sequence[Path], runs: Path) -> str:
    """Name, source, title, state and cost of every experiment, for people and for ``cut``."""
    experiments = [read_experiment(path) for path in paths]
    by_scale = [overview(experiments, scale, runs) for scale in SCALES]
    lines = []
    for experiment, *entries in zip(experiments, *by_scale, strict=True):
        states = [", ".join(filter(None, (f"{e.scale}: {e.state}", e.cost))) for e in entries]
        lines.append("\t".join([experiment.name, experiment.source, experiment.title, *states]))
    return "\n".join(lines) + "\n"


def _parser() -> Parser:
    parser = Parser(
        prog="sdst report", description="Our numbers beside the paper's, from what sdst sweep has run."
    )
    add = parser.add_argument
    add("experiment", nargs="?", help="table5, figure4, ..., or the path of such a file")
    add("--list", action="store_true", help="name all experiments, what of them was run and what it cost")
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
