"""A composed configuration, checked and completed: the one that a run stores."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.checks import check_options, resolve_auto_options
from sdst.config.compose import explain
from sdst.config.schema import TrainConfig
from sdst.errors import UserError

SET_BY_SDST = {
    "callbacks": "they are the group callbacks; give callbacks=NAME",
    "plugins": "checkpoints are written by sdst's own; build a Lightning Trainer in a script to add others",
    "logger": "loggers are the group logger; give logger=NAME",
    "enable_progress_bar": "a terminal gets a bar, a file a line per epoch",
    "fast_dev_run": "a run of a few batches that keeps its checkpoints is debug=fdr",
    "default_root_dir": "everything is written to run_dir; give run_dir=FOLDER",
    "num_sanity_val_steps": "all input is checked before training",
    "use_distributed_sampler": "the data module shares out the queries itself",
    "enable_model_summary": "run.json has the number of parameters",
}
"""Trainer options that sdst sets itself, and why they cannot be given."""
DATA_FROM_RUN = {"seed": "seed", "levels": "levels", "validation_split": "select.split"}
"""Arguments of the data module that are options of the run: argument -> option."""


def complete(config: DictConfig) -> DictConfig:
    """A resolved and checked copy of a composed configuration, with ``decode.score: auto`` filled in.

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


def as_options(config: DictConfig) -> TrainConfig:
    """A completed configuration as an object of the schema."""
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainConfig)
    return options
