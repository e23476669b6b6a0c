"""``sdst report``: a table or figure with our numbers next to the paper's, from the runs of ``sdst sweep``."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.console.parser import Parser
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.reports import caption, render, speed
from sdst.reports.compact import compact
from sdst.reports.noise import marks
from sdst.reports.overview import duration, overview, records, training_seconds
from sdst.reports.plots import plot, plot_groups
from sdst.reports.published import describe as describe_published
from sdst.reports.records import read_records
from sdst.reports.results import Results, collect
from sdst.runs.find import find_runs, runs_folder
from sdst.runs.groups import grouped, grouped_csv, grouped_markdown
from sdst.runs.row import of_runs
from sdst.sweeps.manifest import manifest, read_manifest, read_overrides
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

    from sdst.reports.records import Record

FORMATS = ("md", "compact", "csv", "latex")
APPENDICES = {"tableD": speed.describe, "tableO": describe_published, "tableP": describe_published}
"""Experiment -> function of the experiments folder that returns a further section; only Markdown has it."""


def main(argv: Sequence[str]) -> int:
    """Print a report, write it to a folder, or list all experiments."""
    args = _parser().parse_args(argv)
    folder = args.experiments or experiments_dir()
    of_folders = args.experiment and (all(map(os.path.isdir, args.experiment)) or len(args.experiment) > 1)
    if args.also and (args.list or of_folders):
        raise UserError("sdst report --also needs one experiment or --all, whose tables it fills")
    kept = [record for path in args.also for record in read_records(path, args.scale)]
    if of_folders:
        sys.stdout.write(_of_runs(args))
    elif args.list:
        sys.stdout.write(_list(list_experiments(folder), args.runs))
    elif args.all:
        if args.out is None:
            raise UserError("sdst report --all needs an output folder: give --out DIR")
        _write_all(args, folder, kept)
    elif not args.experiment:
        raise UserError("sdst report: no experiment given; give its name, --all or --list")
    else:
        report = _Report(find_experiment(args.experiment[0], folder), args.scale, args.runs, folder, kept)
        sys.stdout.write(report.text(args.format))
        if args.out is not None:
            report.write(args.out)
    return 0


class _Report:
    """All formats of one report.

    Args:
        experiment: Table or figure.
        scale: Scale of its sweep.
        runs: Folder of all runs.
        experiments: Folder of all experiments.
        kept: Finished jobs of earlier reports.
    """

    def __init__(
        self, experiment: Experiment, scale: str, runs: Path, experiments: Path, kept: Sequence[Record]
    ) -> None:
        path = manifest(runs, experiment.name, scale)
        planned, overrides = read_manifest(path), read_overrides(path)
        self.results: Results = collect(experiment, scale, planned, runs, overrides, kept)
        self.experiments = experiments

    @cached_property
    def marks(self) -> dict[tuple[str, int], str]:
        """The noise marks of the cells; computing them reads the predictions of all runs."""
        return marks(self.results)

    def text(self, kind: str) -> str:
        """The report in one of ``FORMATS``."""
        if kind == "compact":
            return compact(self.results)
        if kind == "csv":
            return render.comma_separated(self.results, self.marks)
        frame = caption.describe(self.results, set(self.marks.values()))
        if kind == "latex":
            return render.latex(self.results, self.marks, frame)
        text = render.markdown(self.results, self.marks, frame)
        appendix = APPENDICES.get(self.results.experiment.name)
        return f"{text}\n{appendix(self.experiments)}" if appendix else text

    def write(self, folder: Path) -> bool:
        """Write NAME.md, .csv and .tex, and NAME.png if the experiment has a picture.

        Returns:
            Whether it has one.
        """
        name = self.results.experiment.name
        folder.mkdir(parents=True, exist_ok=True)
        has_picture = plot(self.results, folder / f"{name}.png")
        picture = f"\n![{self.results.experiment.title}]({name}.png)\n" if has_picture else ""
        others = f"\nThis table as [CSV]({name}.csv) and [LaTeX]({name}.tex).\n"
        write_atomically(folder / f"{name}.md", self.text("md") + picture + others)
        write_atomically(folder / f"{name}.csv", self.text("csv"))
        write_atomically(folder / f"{name}.tex", self.text("latex"))
        return has_picture


def _of_runs(args: Namespace) -> str:
    """The table of any runs, grouped by what differs."""
    for place in map(Path, args.experiment):
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; give one experiment, or folders of runs")
    rows = of_runs(find_runs([Path(place) for place in args.experiment]))
    if args.format not in ("md", "csv"):
        raise UserError(f"sdst report RUNS: --format must be md or csv, got {args.format}")
    csv = grouped_csv(rows)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        picture = "\n![Learning curves](runs.png)\n" * plot_groups(grouped(rows), args.out / "runs.png")
        write_atomically(args.out / "runs.csv", csv)
        write_atomically(args.out / "runs.md", grouped_markdown(rows) + picture)
    return csv if args.format == "csv" else grouped_markdown(rows)


def _write_all(args: Namespace, folder: Path, kept: Sequence[Record]) -> None:
    """Write every report, and an index with all pictures."""
    entries = overview(
        [read_experiment(path) for path in list_experiments(folder)], args.scale, args.runs, kept
    )
    rows = ["| | title | paper | state | training |", "|---|---|---|---|---|"]
    pictures = []
    for entry in entries:
        name, title = entry.experiment.name, entry.experiment.title
        if _Report(entry.experiment, args.scale, args.runs, folder, kept).write(args.out):
            pictures += [f"## [{title}]({name}.md)", "", f"![{title}]({name}.png)", ""]
        cells = (f"[{name}]({name}.md)", title, entry.experiment.source, entry.state, entry.cost)
        rows.append(f"| {' | '.join(cells)} |")
    runs = [run for entry in entries for run in entry.runs]
    parts = [f"# All tables and figures, {args.scale} scale", "", *rows, ""]
    if runs:
        jobs = len({run.identity for run in runs if run.status == "finished"})
        finished = "the only finished job" if jobs == 1 else f"all {jobs} finished jobs"
        parts += [
            f"Training {finished} took {duration(training_seconds(runs))}. Above, a job counts in each table that "
            "uses it.",
            "",
        ]
    write_atomically(args.out / "runs.jsonl", records(entries))
    parts += ["Numbers and origin of every job: [runs.jsonl](runs.jsonl).", ""] if runs else []
    write_atomically(args.out / "index.md", "\n".join([*parts, *pictures]))
    sys.stdout.write(f"{args.out / 'index.md'}\n")


def _list(paths: Sequence[Path], runs: Path) -> str:
    """Name, source, title, state and cost of every experiment, one tab-separated line each."""
    experiments = [read_experiment(path) for path in paths]
    by_scale = [overview(experiments, scale, runs) for scale in SCALES]
    lines = []
    for experiment, *entries in zip(experiments, *by_scale, strict=True):
        states = [", ".join(filter(None, (f"{e.scale}: {e.state}", e.cost))) for e in entries]
        lines.append("\t".join([experiment.name, experiment.source, experiment.title, *states]))
    return "\n".join(lines) + "\n"


def _parser() -> Parser:
    parser = Parser(
        prog="sdst report", description="Our numbers next to the paper's, from the runs of sdst sweep."
    )
    add = parser.add_argument
    add(
        "experiment",
        nargs="*",
        metavar="EXPERIMENT | RUN",
        help="table5, figure4, ..., or the path of an experiment file; or run folders, or folders of them such as a "
        "multirun's: their table, grouped by what differs, mean ± deviation over seeds",
    )
    add("--list", action="store_true", help="list all experiments with their state and cost")
    add("--all", action="store_true", help="write every report and an index to --out")
    add("--scale", choices=SCALES, default="laptop", help="scale of the sweep (default: %(default)s)")
    add(
        "--runs",
        type=Path,
        default=runs_folder(),
        metavar="DIR",
        help="folder of all runs (default: %(default)s)",
    )
    add(
        "--also",
        type=Path,
        action="append",
        default=[],
        metavar="RUNS.JSONL",
        help="runs.jsonl of an earlier report, also of another machine: its jobs fill the places without a finished "
        "run; may be given several times",
    )
    add(
        "--experiments",
        type=Path,
        metavar="DIR",
        help="folder of the experiments (default: the repository's)",
    )
    add(
        "--format",
        choices=FORMATS,
        default="md",
        help="format to print; compact is Markdown with our numbers alone, the best in bold (default: %(default)s)",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write Markdown, CSV, LaTeX and the picture, if there is one, to this folder",
    )
    return parser
