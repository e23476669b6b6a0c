"""``sdst runs``: the list of all runs and jobs, with filters and order, for the terminal or for programs."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdst.console.parser import Parser, at_least
from sdst.console.terminal import printable
from sdst.files.text import encodable
from sdst.runs.find import runs_folder
from sdst.runs.listing import FIXED, ListedRun, differences, list_runs
from sdst.runs.select import matching, ordered
from sdst.runs.table import relative, short

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

AGES = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
PIPE_WIDTH = 10_000
"""Characters of a line outside a terminal, where nothing is wrapped or cut."""
SIMULATED = "*"
"""Mark of a number from simulated features."""


def main(argv: Sequence[str]) -> int:
    """Print the list."""
    args = _parser().parse_args(argv)
    filters = [text for text in args.arguments if "=" in text and not os.path.isdir(text)]
    folders = [Path(text) for text in args.arguments if text not in filters]
    runs = ordered(matching(list_runs(folders or [runs_folder()]), filters), "age")[: args.latest]
    runs = ordered(runs, args.sort, reverse=args.reverse)
    if args.json:
        sys.stdout.write(json.dumps([_describe(run) for run in runs], indent=1) + "\n")
    elif args.csv:
        sys.stdout.write(encodable(_csv(runs)))
    elif runs:
        _print(runs)
    else:
        logger.info("no run matches %s", " ".join(filters))
    return 0


def age(seconds: float) -> str:
    """A duration in its largest unit."""
    name, unit = next(((name, unit) for name, unit in AGES if seconds >= unit), AGES[-1])
    return f"{max(seconds, 0) / unit:.0f} {name}"


def megabytes(size: int) -> str:
    """A size with its unit."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _print(runs: Sequence[ListedRun]) -> None:
    """The table; a line above it has what all runs share, and lines below explain marks and failures."""
    console = Console(file=sys.stdout, highlight=False)
    is_cut = console.is_terminal
    if not is_cut:
        console = Console(file=sys.stdout, width=PIPE_WIDTH, highlight=False)
    differing = differences(runs)
    shared = [f"{option}={runs[0].value(option)}" for option in FIXED if option not in differing]
    kinds = dict.fromkeys(f"{run.row.split} {run.row.metric}" for run in runs if run.row.split)
    metric = short(next(iter(kinds))) if len(kinds) == 1 else "selected"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run", overflow="fold", min_width=12, ratio=2 if is_cut else None)
    table.add_column("differs", overflow="fold", min_width=14, ratio=3 if is_cut else None)
    table.add_column("state", no_wrap=True)
    for name in (metric, "test", "age", "size"):
        table.add_column(name, no_wrap=True, justify="right")
    now = time.time()
    for run in runs:
        said = " ".join(f"{option}={value}" for option in differing if (value := run.value(option)))
        texts = [
            *(str(relative(run.path)), said, run.row.state),
            *(_selected(run, many=len(kinds) > 1), _number(run, run.test)),
            *(age(now - run.changed), megabytes(run.size)),
        ]
        table.add_row(*(Text(printable(text)) for text in texts))
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    if any(option for option in shared if not option.endswith("=")):
        lines.insert(
            0, printable(f"all: {' '.join(option for option in shared if not option.endswith('='))}")
        )
    if any(run.row.features for run in runs):
        lines.append(f"{SIMULATED} simulated features: the numbers are meaningless")
    lines += [printable(f"{relative(run.path)}: {run.row.reason}") for run in runs if run.row.reason]
    sys.stdout.write("\n".join(lines) + "\n")


def _selected(run: ListedRun, *, many: bool) -> str:
    """The value of the metric that selected the checkpoint, with its name if others were selected by another."""
    value = _number(run, run.selected)
    return f"{short(f'{run.row.split} {run.row.metric}')} {value}" if many and value else value


def _number(run: ListedRun, value: float | None) -> str:
    return "" if value is None else f"{value:.2f}{SIMULATED if run.row.features else ''}"


def _describe(run: ListedRun) -> dict[str, Any]:
    """A run as plain values."""
    row = run.row
    return {
        "path": str(run.path),
        "state": row.state,
        **{option: run.value(option) for option in FIXED},
        "options": dict(row.words),
        "split": row.split,
        "metric": row.metric,
        "selected": run.selected,
        "test": run.test,
        "metrics": dict(row.metrics or {}),
        "simulated": bool(row.features),
        "changed": datetime.fromtimestamp(run.changed, UTC).isoformat(timespec="seconds"),
        "bytes": run.size,
        "reason": row.reason,
    }


def _csv(runs: Sequence[ListedRun]) -> str:
    """One line per run: the fixed columns, what differs, and all metrics."""
    options = [option for option in differences(runs) if option not in FIXED]
    names = list(dict.fromkeys(name for run in runs for name in run.row.metrics or {}))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    fixed = ("path", "state", *FIXED)
    further = ("split", "metric", "selected", "test")
    last = ("simulated", "changed", "bytes", "reason")
    writer.writerow([*fixed, *options, *further, *names, *last])
    for run in runs:
        told = _describe(run)
        writer.writerow(
            [
                *(told[key] for key in fixed),
                *(run.value(option) for option in options),
                *(told[key] for key in further),
                *(told["metrics"].get(name, "") for name in names),
                *(told[key] for key in last),
            ]
        )
    return file.getvalue()


def _parser() -> Parser:
    parser = Parser(
        prog="sdst runs",
        description="List runs and jobs: what differs between them, state, the metric that selected the checkpoint, "
        "and the same on test.",
    )
    add = parser.add_argument
    add(
        "arguments",
        nargs="*",
        metavar="FOLDER | KEY=VALUE",
        help="run folders or folders of them (default: SDST_RUNS, or runs); and filters such as data=world, "
        "seed=0,1, state=failed or optim.lr=2e-4",
    )
    add(
        "--sort",
        metavar="KEY",
        default="age",
        help="age, size, selected, test or a metric (newest or largest first), path, state, or an option "
        "(default: age)",
    )
    add("--reverse", action="store_true", help="sort the other way round")
    add("--latest", type=at_least(1), metavar="N", help="only the N runs that changed last")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="print JSON with all metrics")
    kinds.add_argument("--csv", action="store_true", help="print CSV with all metrics")
    return parser
