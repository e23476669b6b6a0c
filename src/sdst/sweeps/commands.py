"""``sdst sweep``: every training of a table or figure, a multirun of ``sdst train`` over its rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdst.config.plain_text import quoted
from sdst.console.parser import Parser, at_least
from sdst.errors import UserError
from sdst.sweeps.tables import SCALES, experiments_dir, find_experiment
from sdst.training import train

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Train the unfinished jobs of a sweep; the exit status is 1 if a job failed."""
    overrides = [arg for arg in argv if "=" in arg and not arg.startswith("-")]
    args = _parser().parse_args([arg for arg in argv if arg not in overrides])
    experiment = find_experiment(args.experiment, args.experiments)
    if seeds := [arg.partition("=")[2] for arg in overrides if arg.startswith("seed=")]:
        raise UserError(
            f"seed={seeds[0]} would give all jobs of the sweep one seed; use --seeds {seeds[0]} instead"
        )
    named = args.experiment.endswith(".yaml")
    file = (
        Path(args.experiment)
        if named
        else (args.experiments or experiments_dir()) / f"{experiment.name}.yaml"
    )
    return train.main(
        [
            "-m",
            f"hydra.sweeper.table={quoted(file.resolve())}",
            f"hydra.sweeper.scale={args.scale}",
            f"seed={','.join(map(str, args.seeds))}",
            *([f"paths.runs={quoted(args.runs)}"] if args.runs else []),
            *overrides,
        ]
    )


def _parser() -> Parser:
    parser = Parser(
        prog="sdst sweep",
        description="Train all rows of a table or figure: a multirun of sdst train over its rows. Further arguments "
        "key=value are overrides of all jobs, or of the launcher: hydra/launcher=joblib hydra.launcher.n_jobs=2.",
    )
    add = parser.add_argument
    add("experiment", help="table5, figure4, ..., or the path of an experiment's YAML file")
    add("--scale", choices=SCALES, default="laptop", help="size of data and model (default: %(default)s)")
    add(
        "--seeds",
        type=at_least(0),
        nargs="+",
        default=[0],
        metavar="N",
        help="seeds of each row (default: 0)",
    )
    add("--runs", type=Path, metavar="DIR", help="folder of the runs (default: paths.runs)")
    add(
        "--experiments",
        type=Path,
        metavar="DIR",
        help="folder of the experiments (default: those of sdst)",
    )
    return parser
