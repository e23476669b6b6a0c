"""The jobs of a multirun: composed, checked and identified before the first one starts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sdst.config.checks import check_options, num_processes
from sdst.config.compose import check_keys, explain
from sdst.config.words import choices_of, differing, run_name, words
from sdst.errors import UserError
from sdst.sweeps.jobs import identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.core.config_loader import ConfigLoader

    from sdst.sweeps.tables import Experiment

LAUNCHER = ("hydra.", "hydra/")
"""Prefixes of the launcher's overrides; all other overrides are for the jobs."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training of a multirun.

    Attributes:
        overrides: Its overrides.
        config: Its configuration.
        choices: Group -> choice.
        identity: Name of its folder.
        row: Label of its row, if the multirun is a table's.
    """

    overrides: tuple[str, ...]
    config: DictConfig = field(repr=False)
    choices: Mapping[str, str]
    identity: str
    row: str = ""

    @property
    def words(self) -> dict[str, str]:
        """The overrides that say what it is."""
        return words(self.overrides)

    def value(self, option: str) -> str:
        """Choice of a group, or value of an option, as typed if it was given."""
        given = self.words.get(option) or self.choices.get(option)
        return given or str(OmegaConf.select(self.config, option))


@dataclass(frozen=True, slots=True)
class Refused:
    """A combination of choices that cannot be trained, and why."""

    overrides: tuple[str, ...]
    reason: str


class Composer:
    """Composes jobs as Hydra's launchers do.

    Args:
        loader: Hydra's loader of configurations.
        config: The configuration of the multirun.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        self._jobs: dict[tuple[str, ...], Job] = {}

    def split(self, overrides: Sequence[str]) -> list[tuple[str, ...]]:
        """All combinations of values such as ``seed=0,1``; if an option is given twice, the last one counts."""
        parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))
        (combinations,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        return [tuple(combination) for combination in combinations]

    def _compose(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """The checked configuration of one job, and its choices."""
        try:
            config = self._loader.load_sweep_config(self._config, list(overrides))
            choices = choices_of(config.hydra.runtime.choices)
            with open_dict(config):
                del config["hydra"]
            # Only the copy is resolved, because the job's loggers refer to the name that it gets later.
            OmegaConf.resolve(config.copy())
        except MissingConfigException:
            raise
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error) from error
        check_keys(config)
        check_options(config)
        if num_processes(config.trainer) > 1:
            raise UserError(
                "trainer.devices must be one device in a multirun; use several by running several jobs at once"
            )
        return config, choices

    def job(self, overrides: Sequence[str]) -> Job:
        """Compose and identify a job; the same overrides are composed once.

        Raises:
            UserError: An option is bad, or a file of the data set cannot be used.
            MissingConfigException: A group has no such choice.
        """
        key = tuple(overrides)
        if key not in self._jobs:
            config, choices = self._compose(key)
            self._jobs[key] = Job(key, config, choices, identity(config))
        return self._jobs[key]


def product_jobs(
    composer: Composer, params: Mapping[str, str], further: Sequence[Sequence[str]], arguments: Sequence[str]
) -> tuple[list[Job], list[Refused]]:
    """Every combination of ``params`` with ``arguments``, and every combination of each list in ``further`` with them.

    An argument replaces the parameter of the same name. Combinations with the same result are one job.

    Raises:
        MissingConfigException: A group has no such choice.
    """
    bases = [[f"{option}={values}" for option, values in params.items()]] if params or not further else []
    jobs: dict[str, Job] = {}
    refused = []
    for base in [*bases, *further]:
        for combination in composer.split([*map(str, base), *arguments]):
            try:
                job = composer.job(combination)
            except UserError as error:
                refused.append(Refused(combination, str(error)))
            else:
                jobs.setdefault(job.identity, job)
    return list(jobs.values()), refused


def table_jobs(composer: Composer, experiment: Experiment, scale: str, arguments: Sequence[str]) -> list[Job]:
    """Every row of a table with every combination of ``arguments``.

    Raises:
        UserError: A row cannot be trained; the message names it.
    """
    jobs: dict[str, Job] = {}
    for row in experiment.jobs(scale):
        place = f"{experiment.name}.yaml: row '{row.label}'"
        if misplaced := [override for override in row.overrides if override.startswith(LAUNCHER)]:
            raise UserError(f"{place}: {misplaced[0]} has no effect in a row; give it to sdst sweep instead")
        for combination in composer.split(arguments):
            try:
                job = composer.job([*row.overrides, *combination])
            except (UserError, MissingConfigException) as error:
                reason = error if isinstance(error, UserError) else explain(error)
                raise UserError(f"{place}: {reason}") from error
            jobs.setdefault(job.identity, replace(job, row=row.label))
    if not jobs:
        raise UserError(
            f"{experiment.name} has no rows to train at {scale} scale; see sdst report {experiment.name}"
        )
    return list(jobs.values())


def tried(job: Job) -> str:
    """Why a job would fail when it starts: its features lack a layer, or its options contradict each other; or ""."""
    # Imported here because it takes seconds, and a sweep whose jobs are all finished does not need it.
    from sdst.training.builders import make_datamodule
    from sdst.training.module import make_module

    try:
        data = make_datamodule(job.config)
        widths = {"video_dim": data.store.video_dim, "text_dim": data.store.text_dim}
        with torch.device("meta"):  # without computing initial weights
            make_module(job.config, widths)
    except UserError as error:
        return str(error)
    return ""


def told(jobs: Sequence[Job]) -> list[dict[str, str]]:
    """What each job is: its row, and its value of every option that was given to any of them."""
    options = dict.fromkeys(option for job in jobs for option in job.words)
    return [
        ({"row": job.row} if job.row else {}) | {option: job.value(option) for option in options}
        for job in jobs
    ]


def labels(jobs: Sequence[Job]) -> list[str]:
    """A short name of each job: its row or what differs, and its seed."""
    values = told(jobs)
    keys = differing(values)
    names = []
    for job, own in zip(jobs, values, strict=True):
        name = run_name({key: own[key] for key in keys or own if key in own}, job.config.seed)
        names.append(f"{job.row}/seed {job.config.seed}" if job.row else name)
    return names
