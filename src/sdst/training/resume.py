"""Resuming a run: its folder, its configuration, and what may have changed since it was started."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from sdst.config.checks import num_processes, resolve_auto_options
from sdst.config.compose import compose
from sdst.errors import UserError
from sdst.files.atomic import remove_leftovers
from sdst.files.locks import lock
from sdst.training.run_folder import LAST, RunFolder
from sdst.untrusted.loggers import check_stored_loggers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from omegaconf import DictConfig

FILES = ("data.features", "data.annotations", "data.num_workers", "data.cache")
CHANGEABLE = (
    *FILES,
    "trainer.max_epochs",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.precision",
    "trainer.log_every_n_steps",
    "recompute",
    "paths.",
    "run_dir",
)
"""Options that may differ when a run is resumed: its length, its machine, and where its files are now."""


def stored_run(resume: str, overrides: Sequence[str], *, trusts: bool = False) -> tuple[Path, DictConfig]:
    """Folder and configuration of the run to resume: as stored, with overrides of :data:`CHANGEABLE` options.

    Args:
        resume: The run folder, or ``latest``.
        overrides: Overrides of the command line.
        trusts: Whether the stored run may log to any server.

    Raises:
        UserError: The run does not exist, it may come from a stranger and logs elsewhere, or an override would make
            it a different run.
    """
    given = compose(overrides)
    if resume == "latest":
        runs = (RunFolder(path.parent) for path in Path(given.paths.runs).rglob("config.yaml"))
        unfinished = [run for run in runs if not run.is_finished and not _belongs_to_another(run.path)]
        if not unfinished:
            raise UserError(f"resume=latest: no unfinished run below {given.paths.runs}; give a run folder")
        run = max(unfinished, key=_last_written)
    else:
        run = RunFolder(resume)
    if not run.is_begun:
        raise UserError(f"resume={resume}: not a run folder (config.yaml is missing); give a run folder")
    run_dir, config = run.path, run.config()
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    _place_databases(config, run_dir, given.paths.runs, is_given="paths.runs" in keys)
    if not trusts:
        loggers: Any = OmegaConf.to_container(config.logger, resolve=True)
        check_stored_loggers(loggers, str(run_dir))
    world = num_processes(config.trainer)
    OmegaConf.resolve(given)
    resolve_auto_options(given)  # the stored one is resolved too
    if moved := [key for key in ("paths.data", "paths.features") if key in keys]:
        if "data" not in keys:
            raise UserError(
                f"resume={resume}: {moved[0]} needs data=NAME, the data set that it locates; give both"
            )
        keys = [*FILES, *keys]
    for key in keys:
        value = OmegaConf.select(given, key)
        if key.startswith(CHANGEABLE):
            OmegaConf.update(config, key, value)
        elif value != OmegaConf.select(config, key):
            raise UserError(
                f"resume={resume}: {run_dir} has another {key}, which cannot change; start a new run"
            )
    if num_processes(config.trainer) != world:  # each takes a batch of its own, so a step would differ
        raise UserError(f"resume={resume}: {run_dir} was started with trainer.devices={world}; give as many")
    return run_dir, config


def _place_databases(config: DictConfig, run_dir: Path, runs: str, *, is_given: bool) -> None:
    """Let a logger with a database for all runs use the one above the run, or the one in today's ``paths.runs``.

    No other folder, because a stored configuration may come from a stranger.
    """
    for node in config.logger.values():
        if OmegaConf.is_dict(node) and "runs" in node:
            is_above = run_dir.resolve().is_relative_to(Path(str(node.runs)).resolve())
            if is_given or not is_above:
                node.runs = runs


def begun_run(overrides: Sequence[str]) -> str:
    """The folder that ``resume=auto`` continues: ``run_dir``, or "" if no run was started there.

    Raises:
        UserError: ``run_dir`` is not given.
    """
    if not any(override.startswith("run_dir=") for override in overrides):
        raise UserError("resume=auto: needs run_dir=FOLDER, the run to start or continue")
    run = RunFolder(compose(overrides).run_dir)
    return str(run.path) if run.is_begun else ""


def batches_done(checkpoint: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """The epoch in which a run continues, and how many of its batches are done; after a whole epoch, the next and 0.

    Raises:
        UserError: The checkpoint lacks this, because it holds only weights or is damaged.
    """
    try:
        _ = checkpoint["optimizer_states"]  # a checkpoint of weights alone lacks it
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if progress["is_last_batch"]:
            return int(checkpoint["epoch"]) + 1, 0
        return int(checkpoint["epoch"]), int(progress["current"]["ready"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the state of training is missing; use the run's {LAST}") from error


def _belongs_to_another(run_dir: Path) -> bool:
    """Whether a process trains this run, or it is a sweep's job, whose configuration lies beside its folder."""
    if run_dir.with_suffix(".yaml").exists():
        return True
    return RunFolder(run_dir).is_running


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Keep other processes from training this run, and remove the temporary files of a killed one.

    Creates its folder, and removes it again if it stays empty.

    The kernel releases the lock when the process ends, however it ends.

    Raises:
        UserError: Another process trains the run.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock_path = RunFolder(run_dir).lock_path
    with lock_path.open("a") as file:
        if not lock(file):
            raise UserError(f"{run_dir}: another process trains this run; wait, or choose another run_dir")
        for folder in (run_dir, run_dir / LAST.parent):
            remove_leftovers(folder)
        try:
            yield
        finally:
            lock_path.unlink(missing_ok=True)
            with suppress(OSError):
                run_dir.rmdir()


def _last_written(run: RunFolder) -> float:
    return (run.last if run.last.exists() else run.config_path).stat().st_mtime


def check_folder(run: RunFolder, resume: bool) -> None:
    """Refuse to write into the folder of another run.

    Raises:
        UserError: The folder holds a finished run, or an unfinished one that is not resumed.
    """
    if run.is_finished:
        raise UserError(
            f"{run.path}: holds a finished run, which is never overwritten; choose another run_dir"
        )
    if not resume and run.is_begun:
        raise UserError(
            f"{run.path}: holds an unfinished run; continue it with resume={run.path} or choose another run_dir"
        )
