"""How the options of a run fit together: settled and checked before anything is written or computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf

from sdst.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed")
SCORE_TERMS = {"both": ("cls", "act"), "class": ("cls",), "actionness": ("act",)}
"""``decode.score`` -> the loss terms that train what it is made of."""


def resolve_auto_options(config: DictConfig) -> None:
    """Let what a loss term of weight 0 leaves untrained take part in nothing (Tab. E).

    Fills in ``decode.score: auto``, and takes the class score out of the matching where it is not trained. The
    checkpoint holds the settled configuration, so prediction decodes as training did.

    Raises:
        UserError: The moments' score would contain an untrained factor, or have none that is trained.
    """
    trained = {term for term in ("cls", "act") if config.loss.weights.get(term)}
    if not trained:
        raise UserError(
            "loss.weights: cls and act are both 0, so nothing trains the score that ranks moments; "
            "give one of them a positive weight"
        )
    if config.decode.score == "auto":
        (config.decode.score,) = (score for score, terms in SCORE_TERMS.items() if trained == set(terms))
    for term in SCORE_TERMS.get(config.decode.score, ()):
        if term not in trained:
            raise UserError(
                f"decode.score: {config.decode.score} needs what only loss.weights.{term} trains; "
                "give it a positive weight or choose auto"
            )
    if "cls" not in trained:
        config.loss.match_weights.cls = 0.0


def check_options(config: DictConfig) -> None:
    """Refuse what would only fail after hours, or say nothing about its cause."""
    trainer = config.trainer
    for key in ("max_epochs", "check_val_every_n_epoch", "log_every_n_steps", "accumulate_grad_batches"):
        if not isinstance(trainer[key], int) or trainer[key] < 1:
            raise UserError(f"trainer.{key}: {trainer[key]} must be a whole number of at least 1")
    if trainer.check_val_every_n_epoch > trainer.max_epochs:
        raise UserError(
            f"trainer.check_val_every_n_epoch: {trainer.check_val_every_n_epoch} must lie in "
            f"1..{trainer.max_epochs}, or no epoch is validated"
        )
    for key in ("limit_train_batches", "limit_val_batches"):
        limit = trainer[key]
        if not isinstance(limit, int | float) or limit <= 0 or (limit > 1 and limit != int(limit)):
            raise UserError(f"trainer.{key}: {limit} must be a positive share or number of batches")
    if "overfit_batches" in trainer:
        raise UserError("trainer.overfit_batches: would draw videos in its own way; give limit_train_batches")
    if trainer.precision not in PRECISIONS:
        raise UserError(f"trainer.precision: {trainer.precision!r} is none of {', '.join(PRECISIONS)}")
    num_processes(trainer)
    _check_variants(config)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed: {config.seed} must lie in 0..{2**32 - 1}")
    if config.compile is not None and config.compile not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise UserError(f"compile: no backend {config.compile!r}; choose from {known}, or null")


def num_processes(trainer: DictConfig) -> int:
    """One for each device of ``trainer.devices``.

    Raises:
        UserError: That is neither a number of devices nor a list of theirs.
    """
    devices = trainer.devices
    listed = OmegaConf.is_list(devices)
    numbers = list(devices) if listed else [devices]
    if any(type(number) is not int or number < (not listed) for number in numbers):
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"trainer.devices: {devices} must be how many, 1 or more, or a list of their numbers")
    return len(devices) if listed else int(devices)


def _check_variants(config: DictConfig) -> None:
    """Refuse what a model's constructor cannot see: variants that contradict the losses or the choice of layers."""
    attention = config.model.get("attention")
    if attention in ("pure_init", "mixed_init") and not config.loss.weights.get("cls"):
        raise UserError(
            f"model.attention: {attention} selects clips by a score that only loss.weights.cls trains; "
            "give it a positive weight or choose another attention"
        )
    if config.loss.weights.get("act") and "actionness_dim" not in config.model:
        raise UserError("loss.weights.act: this model has no actionness head to train; leave it at 0")
    levels = config.levels
    if levels.source == "last" and (levels.stride, levels.text_stride, levels.order) != (1, 1, "ascending"):
        raise UserError(
            "levels.source: last repeats one layer, which levels.stride, text_stride and order cannot change; "
            "leave them at 1, 1 and ascending"
        )


def precision(trainer: DictConfig) -> str:
    """The precision that ``auto`` stands for: half where there is a GPU."""
    if trainer.precision != "auto":
        return str(trainer.precision)
    return "16-mixed" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "32-true"
