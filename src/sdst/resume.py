"""Continuing a run: which one, with what configuration, and what may have changed since it was begun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from sdst.callbacks import LAST
from sdst.config import compose, stored_config
from sdst.distributed import num_processes
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
            path.parents[1]
            for path in Path(given.paths.runs).rglob(str(LAST))
            if not (path.parents[1] / "metrics.json").exists()
        ]
        if not unfinished:
            raise UserError(f"resume=latest: no unfinished run with a checkpoint below {given.paths.runs}")
        run_dir = max(unfinished, key=lambda folder: (folder / LAST).stat().st_mtime)
    else:
        run_dir = Path(resume)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(f"resume={resume}: {run_dir} is no run folder (it has no config.yaml)")
    config = stored_config(run_dir / "config.yaml")
    world = num_processes(config.trainer)
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


def check_folder(run_dir: Path, resume: bool) -> None:
    """Refuse a folder that a run must not write to.

    Raises:
        UserError: It holds a run already, or none that could be continued.
    """
    if (run_dir / "metrics.json").exists():
        raise UserError(
            f"{run_dir}: holds a finished run, which is never overwritten; choose another run_dir"
        )
    if resume and not (run_dir / LAST).is_file():
        raise UserError(f"{run_dir}: has no {LAST} to resume from; start the run anew in another folder")
    if not resume and (run_dir / "config.yaml").exists():
        raise UserError(
            f"{run_dir}: holds an unfinished run; continue it with resume={run_dir} or choose another run_dir"
        )
