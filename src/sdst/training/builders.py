"""The parts of a run, built from its configuration: data module, module and trainer."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.build import build
from sdst.config.checks import check_options, precision, resolve_auto_options
from sdst.config.compose import explain
from sdst.config.schema import SelectConfig, TrainConfig
from sdst.errors import UserError
from sdst.losses.criterion import Criterion
from sdst.models.sdst import SDST
from sdst.training import checkpoint
from sdst.training.callbacks.checkpoints import CheckpointFiles, make_checkpoints
from sdst.training.callbacks.epoch_log import EpochBar, EpochLog
from sdst.training.callbacks.loss_watch import LossWatch
from sdst.training.callbacks.preemption import StopOnSignal
from sdst.training.loggers.make import make_loggers
from sdst.training.module import GroundingModule
from sdst.training.processes import make_environment, make_strategy

if TYPE_CHECKING:
    from sdst.data.datamodule import GroundingDataModule
    from sdst.training.callbacks.step_timer import StepTimer
    from sdst.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

SET_BY_SDST = {
    "callbacks": "they are the group callbacks; give callbacks=NAME",
    "plugins": "checkpoints are written by sdst's own; build a Lightning Trainer in a script to add others",
    "logger": "loggers are the group logger; give logger=NAME",
    "enable_progress_bar": "a terminal gets a bar, a file a line per epoch",
    "default_root_dir": "everything is written to run_dir; give run_dir=FOLDER",
    "num_sanity_val_steps": "all input is checked before training",
    "use_distributed_sampler": "the data module shares out the queries itself",
    "enable_model_summary": "run.json has the number of parameters",
}
"""Trainer options that sdst sets itself, and why they cannot be given."""
MISSING_FEATURES = {
    "world": "make the small world with 'make world', or use that of 'make demo': SDST_DATA=runs/demo"
}
"""Data set -> what to do if its feature file is missing."""
OLDEST_FOR_GRAPHS = (7, 0)
"""Compute capability that the kernels of ``compile=inductor`` need."""
DATA_FROM_RUN = {"seed": "seed", "levels": "levels", "validation_split": "select.split"}
"""Arguments of the data module that are options of the run: argument -> option."""


def complete(config: DictConfig) -> DictConfig:
    """A resolved and checked copy of a composed configuration, options of value ``auto`` filled in.

    Raises:
        UserError: An option is bad.
    """
    config = config.copy()
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{missing[0]} must have a value, got ???")
    check_options(config)
    for key, reason in SET_BY_SDST.items():
        if key in config.trainer:
            raise UserError(f"trainer.{key}: set by sdst train ({reason}); remove it")
    for key, option in DATA_FROM_RUN.items():
        if key in config.data:
            raise UserError(
                f"data.{key}: set from {option}, which is an option of the run; give {option} instead"
            )
    resolve_auto_options(config)
    return config


def make_datamodule(config: DictConfig) -> GroundingDataModule:
    """The data module of a composed configuration.

    Raises:
        UserError: An option or the feature file is bad.
    """
    config = complete(config)
    options = _options(config)
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


def make_module(config: DictConfig, recipe: dict[str, Any]) -> GroundingModule:
    """The untrained model with its losses, optimisation and decoding.

    Args:
        config: A composed configuration.
        recipe: How the features were made: ``recipe`` of the data module.

    Raises:
        UserError: An option is bad.
    """
    config = complete(config)
    options = _options(config)
    plain: Any = OmegaConf.to_container(config)
    model = checkpoint.build_model(plain, recipe)
    if options.recompute:
        if not isinstance(model, SDST):
            raise UserError(f"recompute: {type(model).__name__} keeps all its activations; leave it false")
        model.recompute = True
    if options.compile is not None:
        model.compile(backend=options.compile, mode=_compile_mode(options, config.trainer.accelerator))
    loss = options.loss
    # Methods with losses of their own name them; SDST and R2-Tuning's heads share one criterion.
    criterion_type: type[Criterion] = getattr(model, "criterion", Criterion)
    criterion = criterion_type(
        loss.weights,
        match_weights=loss.match_weights,
        alpha=loss.alpha,
        gamma=loss.gamma,
        temperature=loss.temperature,
        over_levels=loss.over_levels,
    )
    return GroundingModule(
        model,
        criterion,
        options.optim,
        options.decode,
        dataset=config.data.name,
        split=options.select.split,
        seed=options.seed,
        config=plain,
        recipe=recipe,
    )


def _compile_mode(options: TrainConfig, accelerator: str) -> str | None:
    """The mode of ``torch.compile``: without CUDA graphs where they cannot be used, which a line says."""
    if options.compile_mode is None:
        return None
    lacking = ""
    if accelerator == "cpu" or not torch.cuda.is_available():
        lacking = "training is on the CPU"
    elif torch.version.cuda is None or torch.cuda.get_device_capability() < OLDEST_FOR_GRAPHS:
        lacking = f"{torch.cuda.get_device_name()} is not a GPU that torch.compile captures"
    if lacking:
        logger.info("compile_mode=%s has no effect, because %s", options.compile_mode, lacking)
        return None
    return options.compile_mode


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


def _options(config: DictConfig) -> TrainConfig:
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainConfig)
    return options
