"""The runner of every multirun: plan all jobs, train those that are left through a launcher, list what came out.

Hydra calls it through ``hydra_plugins.sdst_jobs.JobSweeper``. Jobs lie in ``RUNS/jobs`` (:mod:`sdst.sweeps.jobs`); the
multirun's own folder has a link to each, named by what differs, and their table as ``jobs.csv``.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException

from sdst.config.compose import explain
from sdst.config.plain_text import quoted
from sdst.config.words import described, tags, words
from sdst.console.terminal import log_to_stderr
from sdst.errors import JobsFailedError, UserError
from sdst.files.atomic import write_atomically
from sdst.files.orphans import end_with_parent
from sdst.runs.row import RunRow, of_job
from sdst.runs.table import as_csv, as_text
from sdst.sweeps.jobs import freeze, run_job, status
from sdst.sweeps.launchers import check_launcher, end_idle_jobs_with_sweep, explain_launcher
from sdst.sweeps.manifest import Planned, manifest, read_manifest, write_manifest
from sdst.sweeps.plan import Composer, Job, Refused, labels, product_jobs, table_jobs, told, tried
from sdst.sweeps.tables import experiments_dir, find_experiment, list_experiments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from omegaconf import DictConfig

    from hydra_plugins.sdst_jobs import JobSweeper
    from sdst.sweeps.tables import Experiment

logger = logging.getLogger(__name__)


@contextmanager
def _quiet_launchers() -> Iterator[None]:
    """Silence the lines of Hydra and its launchers, which repeat ours, for as long as the multirun lasts."""
    packages = [logging.getLogger(name) for name in ("hydra", "hydra_plugins")]
    levels = [package.level for package in packages]
    for package in packages:
        package.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for package, level in zip(packages, levels, strict=True):
            package.setLevel(level)


@_quiet_launchers()
def sweep(sweeper: JobSweeper, arguments: Sequence[str]) -> None:
    """Train the unfinished jobs of a multirun, and print a table of all.

    Args:
        sweeper: The sweeper that Hydra made, with its options.
        arguments: Overrides of all jobs, some with several values.

    Raises:
        UserError: No job, or not every job, can be trained; in a product, the others are trained first.
        JobsFailedError: A job has failed.
    """
    config = sweeper.multirun
    if not isinstance(sweeper.jobs_per_gpu, int) or sweeper.jobs_per_gpu < 1:
        raise UserError(
            f"hydra.sweeper.jobs_per_gpu must be a whole number of at least 1, got {sweeper.jobs_per_gpu}"
        )
    check_launcher(config.hydra.launcher)
    end_idle_jobs_with_sweep(config.hydra.launcher)
    composer = Composer(sweeper.context.config_loader, config)
    runs = Path(config.paths.runs).resolve()
    table = find_experiment(sweeper.table) if sweeper.table else _chosen_table(config)
    jobs, refused = _plan(sweeper, composer, table, arguments, runs / "jobs")
    place = Path(config.hydra.sweep.dir)
    if table is not None:
        path = manifest(runs, table.name, sweeper.scale)
        jobs = _write_rows(path, table, sweeper, composer, arguments, jobs)
        place = path.with_suffix("")
    try:
        _train(sweeper, jobs, runs / "jobs", group=table.name if table else place.name)
    finally:  # also of a multirun that was stopped
        _conclude(jobs, refused, runs / "jobs", place)
    if refused:
        raise _reasons(refused)
    if any(status(runs / "jobs", job.identity) != "finished" for job in jobs):
        raise JobsFailedError


def _plan(
    sweeper: JobSweeper,
    composer: Composer,
    table: Experiment | None,
    arguments: Sequence[str],
    folder: Path,
) -> tuple[list[Job], list[Refused]]:
    """The jobs that can be trained, and the combinations that cannot.

    Raises:
        UserError: A choice is misspelt, no job can be trained, or a row of a given table cannot.
    """
    if table is not None and sweeper.table:  # rows are given; a chosen experiment has parameters instead
        jobs, refused = _try_out(table_jobs(composer, table, sweeper.scale, arguments), folder)
        if refused:
            raise UserError(f"{sweeper.table}: {refused[0].reason}")
        return jobs, refused
    try:
        composed, contradictory = product_jobs(composer, sweeper.params, sweeper.jobs, arguments)
    except MissingConfigException as error:
        raise explain(error) from error
    jobs, refused = _try_out(composed, folder)
    refused = [*contradictory, *refused]
    if not jobs:
        raise _reasons(refused)
    for reason in dict.fromkeys(item.reason for item in refused):
        logger.info("cannot be trained: %s", reason)
    return jobs, refused


def _train(sweeper: JobSweeper, jobs: Sequence[Job], folder: Path, group: str) -> None:
    """Freeze the unfinished jobs and train them; wait for those that another process trains."""
    names = labels(jobs)
    for job, name in zip(jobs, names, strict=True):
        _name(job, group, name)
    left = [job for job in jobs if status(folder, job.identity) != "finished"]
    folder.mkdir(parents=True, exist_ok=True)
    for job in left:
        freeze(job.config, folder, job.identity)
    logger.info("%d jobs: %d finished, %d to train", len(jobs), len(jobs) - len(left), len(left))
    places = {
        job.identity: f"job {number} of {len(jobs)} ({name})"
        for number, (job, name) in enumerate(zip(jobs, names, strict=True), start=1)
    }
    with explain_launcher():
        _launch(left, folder, sweeper, places)
        if busy := [job for job in left if status(folder, job.identity) == "missing"]:
            logger.info("waiting for %d jobs that another process is training", len(busy))
            _launch(busy, folder, sweeper, places, wait=True)


def _launch(
    jobs: Sequence[Job], folder: Path, sweeper: JobSweeper, places: Mapping[str, str], *, wait: bool = False
) -> None:
    """Train jobs through the chosen launcher; skip those that another process trains, or ``wait`` for them."""
    if not jobs:
        return
    config = sweeper.multirun.copy()
    config.hydra.sweep.dir = str(folder)  # launchers create it
    task = partial(
        train_job, places=places, wait=wait, jobs_per_gpu=sweeper.jobs_per_gpu, sweep_pid=os.getpid()
    )
    overrides = [
        [
            *job.overrides,
            f"run_dir={quoted(folder / job.identity)}",
            f"hydra.sweep.dir={quoted(folder)}",
            f"hydra.sweep.subdir={quoted(job.identity)}",
        ]
        for job in jobs
    ]
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=sweeper.context, task_function=task, config=config
    )
    for result in launcher.launch(overrides, initial_job_idx=0):
        _ = result.return_value  # raises what the launcher or the disk has raised


def train_job(
    config: DictConfig, places: Mapping[str, str], wait: bool, jobs_per_gpu: int, sweep_pid: int
) -> None:
    """Train one job in the process that the launcher chose; the result is written to disk, a line to the log.

    Args:
        config: The composed configuration, of which only the folder counts: the job's own was frozen at launch.
        places: Identity -> number and name of the job, such as "job 3 of 16 (attention=standard/seed 0)".
        wait: Whether to wait for a process that trains the job already.
        jobs_per_gpu: Number of jobs that may share a GPU.
        sweep_pid: Process of the multirun. A job in another process ends with the process that started it.
    """
    log_to_stderr()
    if os.getpid() != sweep_pid:
        end_with_parent()
    folder = Path(config.run_dir)
    jobs, name = folder.parent, folder.name
    logger.info("%s started; log %s", places[name], jobs / f"{name}.log")
    result = run_job(jobs, name, wait=wait, jobs_per_gpu=jobs_per_gpu)
    outcome = of_job(jobs, name, {}).outcome
    logger.info("%s %s%s", places[name], result, f": {outcome}" if outcome else "")


def _try_out(jobs: Sequence[Job], folder: Path) -> tuple[list[Job], list[Refused]]:
    """Separate the jobs that would fail when they start; finished ones need no trial."""
    possible, refused = [], []
    for job in jobs:
        if status(folder, job.identity) != "finished" and (reason := tried(job)):
            place = f"row '{job.row}': " if job.row else ""
            refused.append(Refused(job.overrides, place + reason))
        else:
            possible.append(job)
    return possible, refused


def _reasons(refused: Sequence[Refused]) -> UserError:
    return UserError("; ".join(dict.fromkeys(item.reason for item in refused)))


def _chosen_table(config: DictConfig) -> Experiment | None:
    """The table of the chosen experiment, if it is one of the paper's."""
    chosen = str(config.hydra.runtime.choices.experiment)
    names = [path.stem for path in list_experiments(experiments_dir())]
    return find_experiment(chosen) if chosen in names else None


def _write_rows(
    path: Path,
    table: Experiment,
    sweeper: JobSweeper,
    composer: Composer,
    arguments: Sequence[str],
    jobs: Sequence[Job],
) -> list[Job]:
    """Write which jobs belong to which rows, for reports; jobs of earlier seeds stay if they would be the same today.

    Returns:
        The jobs with their rows.
    """
    beside = ("experiment", "scale", "seed", *sweeper.params)
    common = [argument for argument in arguments if argument.partition("=")[0] not in beside]
    seeds = {job.config.seed for job in jobs}
    earlier = read_manifest(path)
    others = {planned.seed for planned in earlier} - seeds
    known = {job.identity: job for job in jobs}
    rows: list[Planned] = []
    for row in table.jobs(sweeper.scale):
        for seed in sorted({*seeds, *others}):
            for combination in composer.split([f"seed={seed}", *common]):
                job = composer.job([*row.overrides, *combination])
                entry = Planned(row.label, row.dataset, seed, job.identity)
                if job.identity in known or entry in earlier:
                    rows.append(entry)
                if job.identity in known and not known[job.identity].row:
                    known[job.identity] = replace(known[job.identity], row=row.label)
    write_manifest(path, rows, sweeper.scale, common)
    return list(known.values())


def _name(job: Job, group: str, name: str) -> None:
    """Name the run for its loggers: group, name and tags, unless the user has."""
    config = job.config
    config.group = config.group or group
    config.name = config.name or f"{group}/{name}"
    config.tags = config.tags or tags(job.choices)


def _conclude(jobs: Sequence[Job], refused: Sequence[Refused], folder: Path, place: Path) -> None:
    """Print the table of all jobs, write it into the multirun's folder, and link the jobs there."""
    rows = [of_job(folder, job.identity, said) for job, said in zip(jobs, told(jobs), strict=True)]
    rows += [RunRow(words(item.overrides), "refused", reason=item.reason) for item in refused]
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / "jobs.csv", as_csv(rows))
    for row in rows:
        name = described(row.differing(rows)).replace(", ", ",") or "job"
        link = place / re.sub(r"[^\w.,=+\[\]-]+", "_", name)[:200]
        if row.folder is not None and row.folder.is_dir():
            if link.is_symlink():  # of an earlier multirun here, perhaps to another job
                link.unlink()
            link.symlink_to(row.folder)
    sys.stdout.write(as_text(rows))
    sys.stdout.flush()
    logger.info("this table: %s", place / "jobs.csv")
