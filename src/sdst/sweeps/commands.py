"""``sdst sweep``: every training that a table or figure needs, through any of Hydra's launchers.

All jobs are composed and checked before the first one starts; finished jobs (``sdst.sweeps.jobs``) are skipped.
``RUNS/sweeps/EXPERIMENT-SCALE.json`` maps rows to jobs for ``sdst report``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.checks import check_options, num_processes
from sdst.config.compose import compose, conf_dir, explain, quoted
from sdst.console.parser import Parser, at_least
from sdst.console.terminal import log_to_stderr
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.sweeps.jobs import freeze, identity, run_job, status
from sdst.sweeps.launchers import check_launcher, explain_launcher
from sdst.sweeps.tables import SCALES, Experiment, find_experiment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdst.sweeps.tables import Job

logger = logging.getLogger(__name__)

LAUNCHER = ("hydra.", "hydra/")
"""Prefixes of the launcher's overrides; all other overrides are for the jobs."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A job of a row; ``identity`` is None if the row's model is not implemented."""

    row: str
    dataset: str
    seed: int
    identity: str | None


def main(argv: Sequence[str]) -> int:
    """Run the unfinished jobs of a sweep; the exit status is 1 if a job failed or a row is not implemented."""
    overrides = [arg for arg in argv if "=" in arg and not arg.startswith("-")]
    args = _parser().parse_args([arg for arg in argv if arg not in overrides])
    experiment = find_experiment(args.experiment, args.experiments)
    of_jobs = [arg for arg in overrides if not arg.startswith(LAUNCHER)]
    if seeds := [arg.partition("=")[2] for arg in of_jobs if arg.startswith("seed=")]:
        raise UserError(
            f"seed={seeds[0]} would give all jobs of the sweep one seed; use --seeds {seeds[0]} instead"
        )
    runs = Path(args.runs or _compose(of_jobs, "sdst sweep").paths.runs).resolve()
    jobs, sweep = runs / "jobs", manifest(runs, experiment.name, args.scale)
    launcher = [
        *(arg for arg in overrides if arg.startswith(LAUNCHER)),
        f"jobs={quoted(jobs)}",
        f"sweep={quoted(sweep)}",
    ]
    _check_launcher(launcher)
    planned, configs = plan(experiment, args.scale, args.seeds, of_jobs, read_manifest(sweep))
    if not planned:
        raise UserError(
            f"{experiment.name} has no rows to train at {args.scale} scale; see sdst report {args.experiment}"
        )

    for folder in (jobs, sweep.parent):
        folder.mkdir(parents=True, exist_ok=True)
    document = {"experiment": experiment.name, "scale": args.scale, "overrides": of_jobs}
    rows = [asdict(job) for job in planned]
    write_atomically(sweep, json.dumps(document | {"jobs": rows}, indent=1) + "\n")
    names = list(dict.fromkeys(job.identity for job in planned if job.identity and job.seed in args.seeds))
    left = [name for name in names if status(jobs, name) != "finished"]
    for name in left:
        freeze(configs[name], jobs, name)
    logger.info(
        "%s, %s scale: %d jobs, %d finished", experiment.name, args.scale, len(names), len(names) - len(left)
    )
    _launch(left, launcher)
    busy = [name for name in left if status(jobs, name) == "missing"]
    if busy:
        logger.info("waiting for %d jobs that another sweep is training", len(busy))
        _launch(busy, [*launcher, "wait=true"])
    return _report(planned, jobs, names)


def manifest(runs: Path, name: str, scale: str) -> Path:
    """Path of the file that lists a sweep's jobs."""
    return runs / "sweeps" / f"{name}-{scale}.json"


def read_manifest(path: Path) -> list[Planned]:
    """Read the jobs of an earlier sweep; empty if there was none.

    Raises:
        UserError: The file was not written by ``sdst sweep``.
    """
    if not path.is_file():
        return []
    try:
        return [_planned(job) for job in json.loads(path.read_text(encoding="utf-8"))["jobs"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not written by sdst sweep ({error}); remove it") from error


def _planned(job: dict[str, Any]) -> Planned:
    """Check a job of a manifest, because its identity becomes part of paths."""
    planned = Planned(**job)
    named = isinstance(planned.row, str) and isinstance(planned.dataset, str)
    identified = planned.identity is None or re.fullmatch(r"[0-9a-f]{12}", planned.identity)
    if not named or type(planned.seed) is not int or not identified:
        raise ValueError(f"not a job: {job}")
    return planned


def plan(
    experiment: Experiment,
    scale: str,
    seeds: Sequence[int],
    overrides: Sequence[str],
    before: Iterable[Planned],
) -> tuple[list[Planned], dict[str, DictConfig]]:
    """List every job of a sweep, and map the identities of those to run to their configurations.

    Args:
        experiment: Table or figure.
        scale: One of :data:`SCALES`.
        seeds: Seeds of each row.
        overrides: Overrides of every job, applied after those of its row.
        before: Jobs of an earlier sweep; those with other seeds stay if their identity would be the same today.

    Raises:
        UserError: An override, annotation file or feature file cannot be used; the message names the table and row.
    """
    planned, configs = [], {}
    earlier = set(before)
    others = {job.seed for job in earlier} - set(seeds)
    models = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    for job in experiment.jobs(scale):
        place = f"{experiment.name}.yaml: row '{job.label}'"
        if misplaced := [override for override in job.overrides if override.startswith(LAUNCHER)]:
            raise UserError(f"{place}: {misplaced[0]} has no effect in a row; give it to sdst sweep instead")
        if _model(job) not in models:
            planned += [Planned(job.label, job.dataset, seed, None) for seed in seeds]
            continue
        config = _compose([*job.overrides, *overrides], place)
        _set_group(config, experiment.name)
        for seed in sorted({*seeds, *others}):
            config.seed = seed
            try:
                name = identity(config)
            except UserError as error:
                raise UserError(f"{place}: {error}") from error
            entry = Planned(job.label, job.dataset, seed, name)
            if seed in seeds or entry in earlier:
                planned.append(entry)
            if seed in seeds:
                configs[name] = config.copy()
    return planned, configs


def train_job(config: DictConfig) -> None:
    """Run one job of a multirun, in the process that the launcher chose; the result is written to disk."""
    log_to_stderr()
    jobs, name = Path(config.jobs), config.job
    result = run_job(jobs, name, wait=config.wait)
    if result == "busy":
        return
    planned = read_manifest(Path(config.sweep))
    names = list(dict.fromkeys(job.identity for job in planned if job.identity))
    states = [status(jobs, other) for other in names]
    rows = ", ".join(f"{job.row} ({job.dataset}, seed {job.seed})" for job in planned if job.identity == name)
    counts = f"{states.count('finished')} finished, {states.count('failed')} failed, {states.count('missing')} left"
    logger.info("job %d of %d %s: %s; %s", names.index(name) + 1, len(names), result, rows, counts)


def _launch(names: Sequence[str], launcher: Sequence[str]) -> None:
    """Start Hydra's multirun over the jobs, if there are any."""
    if not names:
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own report
    for package in ("hydra", "hydra_plugins"):
        logging.getLogger(package).setLevel(logging.WARNING)
    arguments = sys.argv
    # Quoted, because Hydra would read an identity of digits alone as a number.
    sys.argv = ["sdst sweep", "-m", *launcher, f"job={','.join(map(quoted, names))}"]
    try:
        application = hydra.main(
            version_base="1.3", config_path=str(conf_dir().resolve()), config_name="sweep"
        )
        with explain_launcher():
            application(train_job)()
    finally:
        sys.argv = arguments


def _report(planned: Sequence[Planned], jobs: Path, names: Sequence[str]) -> int:
    """Log rows that are not implemented and jobs that did not finish, and return the exit status."""
    absent = list(dict.fromkeys(job.row for job in planned if job.identity is None))
    if absent:
        logger.info("not implemented: %s", ", ".join(absent))
    unfinished = [name for name in names if status(jobs, name) != "finished"]
    for name in unfinished:
        logger.info("%s: %s; see %s", name, status(jobs, name), jobs / f"{name}.log")
    return int(bool(absent or unfinished))


def _compose(overrides: Sequence[str], place: str) -> DictConfig:
    try:
        config = compose(overrides)
        OmegaConf.resolve(config)
        check_options(config)
        if num_processes(config.trainer) > 1:
            raise UserError(
                "trainer.devices must be one device in a sweep; use several by running several jobs at once"
            )
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{place}: {explain(error)}") from error
    return config


def _check_launcher(overrides: Sequence[str]) -> None:
    """Refuse a launcher that cannot run here, or an option that it does not have, before any work."""
    try:
        with hydra.initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
            config = hydra.compose("sweep", [*overrides, "job=none"], return_hydra_config=True)
            check_launcher(config.hydra.launcher)
    except (HydraException, OmegaConfBaseException) as error:
        message = " ".join(str(error).split())
        raise UserError(f"sdst sweep: {message}; check the launcher's name and options") from error


def _set_group(config: DictConfig, name: str) -> None:
    """Make loggers that group runs, such as wandb, group them by experiment."""
    for node in (config, *config.logger.values()):
        if "group" in node:
            node.group = name


def _model(job: Job) -> str:
    chosen = [override.partition("=")[2] for override in job.overrides if override.startswith("model=")]
    return chosen[-1] if chosen else "sdst"


def _parser() -> Parser:
    parser = Parser(
        prog="sdst sweep",
        description="Train all rows of a table or figure. Further arguments key=value are Hydra overrides of all jobs, "
        "or of the launcher: hydra/launcher=joblib hydra.launcher.n_jobs=2.",
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
