"""``sdst train``: compose the configuration and train, once or as a multirun."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sdst.config.compose import conf_dir, explain, register_schema
from sdst.errors import JobsFailed, UserError
from sdst.training.resume import begun_run, stored_run
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

logger = logging.getLogger(__name__)

FLAGS = (
    *("-m", "--multirun", "--cfg", "-c", "--package", "-p", "--resolve", "--info", "-i", "--help", "-h"),
    *("--config-dir", "-cd"),
)
"""Hydra's options that are supported. The folder of ``--config-dir`` adds choices, such as ``data=mine``."""

SEARCH = "hydra/sweeper=optuna"
"""Override that chooses Optuna's sweeper, which searches for good values instead of trying all."""
SEARCH_OPTIONS = ("hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1")
"""Default options of the search: maximise the metric, and continue after trials that diverged."""


def main(argv: Sequence[str]) -> int:
    """Train with the configuration of conf/train.yaml and overrides, or with ``resume=`` continue a run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions get here instead of into Hydra's own report
    resumed = [arg.partition("=")[2] for arg in argv if arg.startswith("resume=")]
    resume = resumed[-1] if resumed else ""
    argv = [arg for arg in argv if not arg.startswith("resume=")]
    try:
        if resume == "auto":
            resume = begun_run(argv)
            if resume and RunFolder(resume).is_finished:
                logger.info("%s: this run is finished; nothing to do", resume)
                return 0
        if resume not in ("", "null"):
            from sdst.training.fit import train

            if flags := [arg for arg in argv if arg.startswith("-")]:
                raise UserError(f"sdst train: resume={resume} takes no {flags[0]}; remove one of the two")
            run_dir, config = stored_run(resume, argv)
            train(config, run_dir, resume=True)
        else:
            _check_flags(argv)
            overrides = [*(SEARCH_OPTIONS if SEARCH in argv else ()), *argv]
            # Optuna imports alembic, which logs its start.
            logging.getLogger("alembic").setLevel(logging.WARNING)
            # Hydra's parser accepts the flag only before or after all overrides.
            sys.argv = ["sdst train", *sorted(overrides, key=lambda arg: arg not in ("-m", "--multirun"))]
            _run_hydra()
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    except JobsFailed:
        return 1
    return 0


def _check_flags(argv: Sequence[str]) -> None:
    for arg in argv:
        if arg.startswith("-") and arg.partition("=")[0] not in FLAGS:
            raise UserError(
                f"sdst train: unknown option {arg}; options are {', '.join(FLAGS)} and overrides like seed=1"
            )


def _run_hydra() -> None:
    """Train one run, or all runs of a multirun; bad input of a job is reported after the other jobs are done."""
    refused: list[UserError] = []
    here = os.getpid()

    def job(config: DictConfig) -> float | None:
        """Train, and return what a search maximises: the best value of the metric that selects checkpoints."""
        # Imported here because it takes seconds, and help and refusals do not need it.
        from sdst.training.fit import train

        run_dir = Path(HydraConfig.get().runtime.output_dir)
        try:
            result = train(config, run_dir)
        except UserError as error:
            refused.append(error)
            with contextlib.suppress(OSError):
                run_dir.rmdir()  # made by Hydra; fails if it is not empty
            if os.getpid() != here:  # a launcher's process, whose list nobody reads
                raise
            return None
        selected = result["selected"]
        value: float = result["best"][selected["split"]][selected["metric"]]
        return value

    register_schema()
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir().resolve()), config_name="train")(job)()
    except ValueError:  # Optuna raises it if it has no best trial
        if not refused:
            raise
    if refused:
        raise UserError("; ".join(str(error) for error in refused))
