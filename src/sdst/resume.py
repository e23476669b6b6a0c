"""Continuing a run: which one, with what configuration, and what may have changed since it was begun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from sdst.callbacks import LAST
from sdst.config import compose, stored_config
from sdst.distributed import num_processes
from sdst.errors import UserError
from sdst.options import settle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from omegaconf import DictConfig

CHANGEABLE = (
    "trainer.",
    "recompute",
    "data.num_workers",
    "data.features",
    "data.annotations.",
    "paths.",
    "run_dir",
)
"""What may differ when a run is resumed: how long and on what machine it runs, and where its files are now."""


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
            if not path.with_name("metrics.json").exists()
        ]
        if not unfinished:
            raise UserError(f"resume=latest: no unfinished run below {given.paths.runs}")
        run_dir = max(unfinished, key=_last_written)
    else:
        run_dir = Path(resume)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"resume={resume}: {run_dir} is no run folder (it has no config.yaml)")
    config = stored_config(run_dir / "config.yaml")
    world = num_processes(config.trainer)
    settle(given)  # as the stored one is
    for key in (override.lstrip("+~").partition("=")[0] for override in overrides):
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
