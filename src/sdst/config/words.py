"""The overrides of a run in the words that were typed: ``attention=standard``, ``seed=1``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PLACES = (
    "run_dir",
    "group",
    "name",
    "tags",
    "resume",
    "paths.",
    "logger",
    "hydra",
    "experiment",
    "data.num_workers",
)
"""Beginnings of options that say where a run lies or how it is shown, not what it is."""


def words(overrides: Iterable[str]) -> dict[str, str]:
    """Option -> value of the overrides that say what a run is, the last of an option counts."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs if not key.startswith(PLACES)}


def differing(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Options in which the runs differ, in the order in which they first appear; one that is missing counts too."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if len({run.get(key) for run in runs}) > 1]


def described(values: Mapping[str, str]) -> str:
    """The words in one line: ``attention=standard, seed=1``."""
    return ", ".join(f"{key}={value}" for key, value in values.items())


def hydra_words() -> dict[str, Any]:
    """Choices and overrides of the run that Hydra has composed, for run.json; empty outside Hydra's application."""
    if not HydraConfig.initialized():
        return {}
    config = HydraConfig.get()
    choices: Any = OmegaConf.to_container(config.runtime.choices)
    overrides = words(config.overrides.task)
    return {
        "choices": {
            str(group): choice for group, choice in choices.items() if not str(group).startswith("hydra")
        },
        "overrides": [f"{key}={value}" for key, value in overrides.items()],
    }
