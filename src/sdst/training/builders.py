"""The data module and the trainer of a run, built from its configuration."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sdst.config.build import build
from sdst.config.checks import precision
from sdst.config.schema import SelectConfig
from sdst.errors import UserError
from sdst.training.callbacks.checkpoints import CheckpointFiles, make_checkpoints
from sdst.training.callbacks.epoch_log import EpochBar, EpochLog
from sdst.training.callbacks.loss_watch import LossWatch
from sdst.training.callbacks.preemption import StopOnSignal
from sdst.training.complete import as_options, complete
from sdst.training.loggers.make import make_loggers
from sdst.training.processes import make_environment, make_strategy

if TYPE_CHECKING:
    from sdst.data.datamodule import GroundingDataModule
    from sdst.training.callbacks.step_timer import StepTimer
    from sdst.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

MISSING_FEATURES = {
    "world": "make the small world with 'make world', or use that of 'make demo': SDST_DATA=runs/demo"
}
"""Data set -> what to do if its feature file is missing."""


def make_datamodule(config: DictConfig) -> GroundingDataModule:
    """The data module of a composed configuration.

    Raises:
        UserError: An option or the feature file is bad.
    """
    config = complete(config)
    options = as_options(config)
    features = config.data.get("features")
    if isinstance(features, str) and not Path(features).exists():
        advice = MISSING_FEATURES.get(
            config.data.name, "extract them (docs/real-data.md), or give data.features=FILE"
        )
        raise UserError(f"{features}: no such file; {advice}")
    data: GroundingDataModule = build(
        config.data, levels=options.levels, seed=options.seed, validation_split=options.select.split
    )
    return data


def make_trainer(config: DictConfig, select: SelectConfig, run: RunFolder, timer: StepTimer) -> L.Trainer:
    """The trainer of a completed configuration, with loggers, checkpoints and progress."""
    settings = config.trainer.copy()
    OmegaConf.set_struct(settings, False)
    strategy: Any = settings.pop("strategy", None)
    if strategy is None:
        strategy = make_strategy(config.trainer, unused_parameters=not all(config.loss.weights.values()))
    elif OmegaConf.is_dict(strategy):
        strategy = build(strategy)
    interactive = sys.stderr.isatty()
    try:
        trainer: L.Trainer = build(
            settings,
            precision=precision(config.trainer),
            callbacks=[
                *make_checkpoints(run, monitor=f"{select.split}/{select.metric}"),
                EpochBar(leave=True) if interactive else EpochLog(),
                LossWatch(run),
                StopOnSignal(run),
                timer,
                *(build(config.callbacks[name]) for name in config.callbacks),
            ],
            plugins=[CheckpointFiles(), make_environment()],
            strategy=strategy,
            logger=make_loggers(config.logger, run),
            default_root_dir=run.path,
            enable_progress_bar=interactive,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except InstantiationException as error:  # Lightning's, about a device that is not there
        raise UserError(f"trainer: {' '.join(str(error.__cause__).split())}") from error
    return trainer
