"""Continuing a run: which one, with what configuration, and what may have changed since it was begun."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from sdst.config.checks import num_processes, resolve_auto_options
from sdst.config.compose import compose
from sdst.config.stored import stored_config
from sdst.errors import UserError
from sdst.files.locks import lock
from sdst.training.run_folder import LAST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from omegaconf import DictConfig

FILES = ("data.features", "data.annotations", "data.num_workers")
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
"""What may differ when a run is resumed: how long and on what machine it runs, and where its files are now."""
LOCK = "run.lock"
"""In the folder of a run, while a process trains it."""


def stored_run(resume: str, overrides: Sequence[str]) -> tuple[Path, DictConfig]:
    """Folder and configuration of the run to continue: as stored, but for overrides of :data:`CHANGEABLE` values.

    Raises:
        UserError: There is no such run, it is finished, or an override would make another run of it.
    """
    given = compose(overrides)
    if resume == "latest":
        unfinished = [
            path.parent
            for path in Path(given.paths.runs).rglob("config.yaml")
            if not path.with_name("metrics.json").exists() and not _belongs_to_another(path.parent)
        ]
        if not unfinished:
            raise UserError(f"resume=latest: no run below {given.paths.runs} was left unfinished")
        run_dir = max(unfinished, key=_last_written)
    else:
        run_dir = Path(resume)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"resume={resume}: {run_dir} is no run folder (it has no config.yaml)")
    config = stored_config(run_dir / "config.yaml")
    world = num_processes(config.trainer)
    OmegaConf.resolve(given)
    resolve_auto_options(given)  # as the stored one is
    keys = [override.lstrip("+~").partition("=")[0] for override in overrides]
    if moved := [key for key in ("paths.data", "paths.features") if key in keys]:
        if "data" not in keys:
            raise UserError(f"resume={resume}: {moved[0]} says where a data set is; give data=NAME with it")
        keys = [*FILES, *keys]
    for key in keys:
        value = OmegaConf.select(given, key)
        if key.startswith(CHANGEABLE):
            OmegaConf.update(config, key, value)
        elif value != OmegaConf.select(config, key):
            raise UserError(f"resume={resume}: {run_dir} was made with another {key}; start a new run for it")
    if num_processes(config.trainer) != world:  # each takes a batch, so a step would be another
        raise UserError(
            f"resume={resume}: {run_dir} was begun with {world} processes; give as many trainer.devices"
        )
    return run_dir, config


def begun_run(overrides: Sequence[str]) -> str:
    """The folder that ``resume=auto`` continues: ``run_dir``, or "" where no run was begun there.

    Raises:
        UserError: No ``run_dir`` is given.
    """
    if not any(override.startswith("run_dir=") for override in overrides):
        raise UserError("resume=auto: needs run_dir=FOLDER, the run to begin or to continue")
    run_dir = Path(compose(overrides).run_dir)
    return str(run_dir) if (run_dir / "config.yaml").exists() else ""


def batches_done(checkpoint: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """The epoch in which a run goes on, and how many of its batches are done: 0 where the last epoch was whole.

    Raises:
        UserError: The checkpoint does not tell, as one of weights alone does not.
    """
    try:
        _ = checkpoint["optimizer_states"]  # which weights alone would lack
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        done = 0 if progress["is_last_batch"] else progress["current"]["ready"]
        return int(checkpoint["epoch"]), int(done)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: does not tell how far training was; use the run's {LAST}") from error


def _belongs_to_another(run_dir: Path) -> bool:
    """Whether a process trains this run, or a sweep will continue it, whose job has a file beside its folder."""
    if run_dir.with_suffix(".yaml").exists():
        return True
    if not (run_dir / LOCK).exists():
        return False
    with (run_dir / LOCK).open("a") as file:
        return not lock(file)


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Let no other process train this run meanwhile; makes its folder, and removes it where nothing was written.

    The lock ends with the process, however that ends.

    Raises:
        UserError: Another process trains it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("a") as file:
        if not lock(file):
            raise UserError(f"{run_dir}: another process trains this run; wait, or choose another")
        try:
            yield
        finally:
            (run_dir / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                run_dir.rmdir()


def _last_written(run_dir: Path) -> float:
    checkpoint = run_dir / LAST
    return (checkpoint if checkpoint.exists() else run_dir / "config.yaml").stat().st_mtime


def check_folder(run_dir: Path, resume: bool) -> None:
    """Refuse a folder that a run must not write to.

    Raises:
        UserError: It holds a run already.
    """
    if (run_dir / "metrics.json").exists():
        raise UserError(
            f"{run_dir}: holds a finished run, which is never overwritten; choose another run_dir"
        )
    if not resume and (run_dir / "config.yaml").exists():
        raise UserError(
            f"{run_dir}: holds an unfinished run; continue it with resume={run_dir} or choose another run_dir"
        )
