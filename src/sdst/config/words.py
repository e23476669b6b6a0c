"""The overrides of a run in the words that were typed: ``attention=standard``, ``seed=1``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hydra.conf import HydraConf


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
    "data.cache",
)
"""Beginnings of options that say where a run lies or how it is shown, not what it is."""

LONGEST = 80
"""Characters of a run's name before its seed."""


def words(overrides: Iterable[str]) -> dict[str, str]:
    """Option -> value of the overrides that say what a run is; the last override of an option counts."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs if not key.startswith(PLACES)}


def stored_words(choices: Mapping[str, str], overrides: Iterable[str]) -> dict[str, str]:
    """The words of a run from the choices and overrides in its run.json.

    Choices that follow from others are left out unless they were typed: ``moments`` follows from the model, and groups
    such as ``recipe_on_model`` from two others.
    """
    own = {group: choice for group, choice in choices.items() if group != "moments" and "_on_" not in group}
    return words([*typed(own), *overrides])


def differing(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Options in which the runs differ, in the order in which they first appear; one that only some have differs."""
    keys = dict.fromkeys(key for run in runs for key in run)
    return [key for key in keys if len({run.get(key) for run in runs}) > 1]


def described(values: Mapping[str, str]) -> str:
    """The words in one line: ``attention=standard, seed=1``."""
    return ", ".join(typed(values))


def typed(values: Mapping[str, str]) -> list[str]:
    """The words as overrides: ``["attention=standard", "seed=1"]``."""
    return [f"{key}={value}" for key, value in values.items()]


def run_name(values: Mapping[str, str], seed: int) -> str:
    """A name of a run that is short enough for wandb: ``attention=standard/seed 1``."""
    own = described({key: value for key, value in values.items() if key != "seed"}) or "defaults"
    return f"{own if len(own) <= LONGEST else own[:LONGEST] + '...'}/seed {seed}"


def choices_of(choices: Mapping[Any, Any]) -> dict[str, str]:
    """Group -> choice of ``hydra.runtime.choices``, without groups that only place or show a run."""
    return words(f"{group}={choices[group]}" for group in choices if choices[group] is not None)


def tags(choices: Mapping[str, str]) -> list[str]:
    """The choices as tags of a tracked run, which wandb limits to 64 characters."""
    return [tag[:64] for tag in typed(choices)]


def task_words(config: HydraConf) -> dict[str, str]:
    """The words of Hydra's own configuration; interpolations in them stay as typed."""
    overrides: Any = OmegaConf.to_container(config.overrides.task, resolve=False)
    return words(overrides)


def hydra_words() -> dict[str, Any]:
    """Choices and overrides of the run that Hydra has composed, for run.json; empty outside Hydra's application."""
    # Imported here because commands that only list runs need these words, but not Hydra.
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return {}
    config = HydraConfig.get()
    return {
        "choices": choices_of(config.runtime.choices),
        "overrides": typed(task_words(config)),
    }


def flatten(config: DictConfig | dict[str, Any]) -> dict[str, str]:
    """All options of a configuration in order, dotted key -> value as text; a list is one value."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in leaves(config if isinstance(config, dict) else OmegaConf.to_container(config))
    }


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything below nested mappings, in order; a list is one value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
