"""Configurations that several tests read, composed once per process because composing takes a tenth of a second."""

from copy import deepcopy
from functools import cache

from omegaconf import DictConfig

from sdst.config.compose import compose


def composed(*overrides: str) -> DictConfig:
    """Return a copy of the configuration of ``conf/`` with these overrides; the environment must not matter to it."""
    return deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose(overrides)
