"""The loggers of a run: the CSV log, and the trackers beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf

from sdst.config.build import build
from sdst.errors import UserError
from sdst.training.loggers.tracker import Tracker

if TYPE_CHECKING:
    import lightning as L
    from lightning.pytorch.loggers import Logger
    from omegaconf import DictConfig

    from sdst.training.run_folder import RunFolder


def make_loggers(configs: DictConfig, run: RunFolder) -> list[Logger]:
    """The loggers of a configuration, and always the CSV log, whose curves ``sdst show`` draws.

    Args:
        configs: Name -> constructor of a logger.
        run: Run folder that the loggers write into.

    Raises:
        UserError: A node is not a logger's constructor, or its package is not installed.
    """
    loggers: list[Logger] = []
    for name, node in ((str(key), configs[key]) for key in configs):
        if not OmegaConf.is_dict(node):
            raise UserError(f"logger.{name}: must be a mapping with a _target_, got {node!r}")
        if "save_dir" in node:
            raise UserError(f"logger.{name}.save_dir: a run logs into its own folder; remove the option")
        try:
            loggers.append(build(node, save_dir=str(run.path)))
        except InstantiationException as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            reason = " ".join(str(error.__cause__).split())
            raise UserError(
                f"logger.{name}: a package is missing ({reason}); install it or choose another logger"
            ) from error
    if not any(isinstance(made, CSVLogger) and made.name == run.csv_path.name for made in loggers):
        loggers.insert(0, CSVLogger(str(run.path), name=run.csv_path.name))
    return loggers


def start_trackers(trainer: L.Trainer, run: RunFolder, config: dict[str, Any], facts: dict[str, Any]) -> None:
    """Start or continue the tracked runs of a run folder.

    Args:
        trainer: Trainer with the loggers and checkpoints.
        run: Run folder.
        config: The resolved configuration.
        facts: Content of run.json: commit, versions, machine, parameters, features.

    Raises:
        UserError: A tracker refuses to start the run.
    """
    for tracker in trainer.loggers:
        if isinstance(tracker, Tracker):
            tracker.start(run, {**config, "run": facts})
            # With log_model=true a tracker only logs checkpoints that were saved in this process. A resumed run may
            # have its best epoch from before.
            for callback in trainer.checkpoint_callbacks:
                tracker.after_save_checkpoint(callback)  # type: ignore[arg-type]  # all are ModelCheckpoint
