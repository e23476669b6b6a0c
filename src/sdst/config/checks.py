"""How the options of a run fit together: resolved and checked before anything is written or computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from sdst.errors import UserError
from sdst.untrusted.targets import find_target

if TYPE_CHECKING:
    from omegaconf import DictConfig

PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed")
COMPILE_MODES = (None, "reduce-overhead")
SCORE_TERMS = {"both": ("cls", "act"), "class": ("cls",), "actionness": ("act",)}
"""``decode.score`` -> the loss terms that train its factors."""
MOMENT_TERMS = ("cls", "l1", "iou", "act")
"""Loss terms that need true moments."""


def resolve_auto_options(config: DictConfig) -> None:
    """Exclude heads whose loss weight is 0 from matching and scoring (Tab. E).

    Replaces ``decode.score: auto``, and sets the matching weight of an untrained class score to 0. The checkpoint
    holds the resolved configuration, so prediction decodes as training did.

    Raises:
        UserError: The score that ranks moments would have an untrained factor, or no trained one.
    """
    if config.decode.max_moments == 0:
        _check_no_moments(config)
        return
    trained = {term for term in ("cls", "act") if config.loss.weights.get(term)}
    if not trained:
        raise UserError(
            "loss.weights: cls or act must be positive to train the score that ranks moments, got 0 for both; "
            "raise one of them"
        )
    if config.decode.score == "auto":
        (config.decode.score,) = (score for score, terms in SCORE_TERMS.items() if trained == set(terms))
    for term in SCORE_TERMS.get(config.decode.score, ()):
        if term not in trained:
            raise UserError(
                f"decode.score: {config.decode.score} needs a positive loss.weights.{term}, got 0; "
                "raise it or choose auto"
            )
    if "cls" not in trained:
        config.loss.match_weights.cls = 0.0


def _check_no_moments(config: DictConfig) -> None:
    """Refuse moment losses in a run that predicts no moments."""
    for term in MOMENT_TERMS:
        if config.loss.weights.get(term):
            raise UserError(
                f"loss.weights.{term} must be 0 because decode.max_moments=0 predicts no moments, got "
                f"{config.loss.weights[term]}; set it to 0, or give decode.max_moments=null"
            )
    if config.decode.score == "auto":
        config.decode.score = "class"


def check_options(config: DictConfig) -> None:
    """Refuse options that would fail only after hours, or with a message that hides the cause.

    Raises:
        UserError: The first bad option.
    """
    _check_recipe(config)
    trainer = config.trainer
    for key in ("max_epochs", "check_val_every_n_epoch", "log_every_n_steps", "accumulate_grad_batches"):
        if not isinstance(trainer[key], int) or trainer[key] < 1:
            raise UserError(f"trainer.{key} must be a whole number of at least 1, got {trainer[key]}")
    if trainer.check_val_every_n_epoch > trainer.max_epochs:
        raise UserError(
            f"trainer.check_val_every_n_epoch must be at most trainer.max_epochs = {trainer.max_epochs}, or no epoch "
            f"is validated, got {trainer.check_val_every_n_epoch}"
        )
    for key in ("limit_train_batches", "limit_val_batches"):
        limit = trainer[key]
        if not isinstance(limit, int | float) or limit <= 0 or (limit > 1 and limit != int(limit)):
            raise UserError(
                f"trainer.{key} must be a positive number of batches, or a share up to 1.0, got {limit}"
            )
    if "overfit_batches" in trainer:
        raise UserError(
            "trainer.overfit_batches is not supported, because it replaces the order in which videos are drawn; "
            "use trainer.limit_train_batches"
        )
    if trainer.precision not in PRECISIONS:
        raise UserError(
            f"trainer.precision must be one of {', '.join(PRECISIONS)}, got {trainer.precision!r}"
        )
    num_processes(trainer)
    _check_variants(config)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must lie in 0..{2**32 - 1}, got {config.seed}")
    if config.compile is not None and config.compile not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise UserError(f"compile must be one of {known}, or null, got {config.compile!r}")
    if config.compile_mode not in COMPILE_MODES:
        raise UserError(f"compile_mode must be {COMPILE_MODES[1]}, or null, got {config.compile_mode!r}")
    if config.compile_mode and config.compile != "inductor":
        raise UserError(
            f"compile_mode={config.compile_mode} needs compile=inductor, got {config.compile}; give both or neither"
        )


def _check_recipe(config: DictConfig) -> None:
    """Refuse ``recipe=paper`` where ``conf/recipe_on_model`` has no file that replaces its nulls."""
    for section, key in (("data", "batch_size"), ("data", "repeat"), ("trainer", "max_epochs")):
        if key in config[section] and config[section][key] is None:
            raise UserError(
                f"{section}.{key} must have a value, got null; recipe=paper has no schedule for "
                f"{str(config.model['_target_']).rpartition('.')[2]} on {config.data.name}, choose recipe=common there"
            )


def num_processes(trainer: DictConfig) -> int:
    """Number of processes: one for each device of ``trainer.devices``.

    Raises:
        UserError: It is neither a number of devices nor a list of device numbers.
    """
    devices = trainer.devices
    listed = OmegaConf.is_list(devices)
    numbers = list(devices) if listed else [devices]
    if any(type(number) is not int or number < (not listed) for number in numbers):
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(
            f"trainer.devices must be a number of at least 1, or a list of device numbers like [0,2], got {devices}"
        )
    return len(devices) if listed else int(devices)


def _check_variants(config: DictConfig) -> None:
    """Refuse variants that contradict the losses or the choice of layers, which a model's constructor cannot see."""
    start = OmegaConf.select(config, "model.attention.start")
    if start in ("pure", "mixed") and not config.loss.weights.get("cls"):
        raise UserError(
            f"attention={start}_init selects clips by the class score, so loss.weights.cls must be positive, got 0; "
            "raise it or choose another attention"
        )
    if config.loss.weights.get("act") and not getattr(_model_class(config), "has_actionness", False):
        raise UserError(
            f"loss.weights.act must be 0 because this model has no actionness head, got {config.loss.weights.act}"
        )
    levels = config.levels
    if levels.source == "last" and (levels.stride, levels.text_stride) != (1, 1):
        raise UserError(
            "levels.source: last repeats one layer, so levels.stride and text_stride must stay 1, "
            f"got {levels.stride} and {levels.text_stride}"
        )


def _model_class(config: DictConfig) -> Any:
    values: Any = OmegaConf.to_container(config.model, resolve=True)
    return find_target(values, "model._target_")


def precision(trainer: DictConfig) -> str:
    """The precision that training uses; ``auto`` is half precision on a GPU."""
    if trainer.precision != "auto":
        return str(trainer.precision)
    return "16-mixed" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "32-true"
