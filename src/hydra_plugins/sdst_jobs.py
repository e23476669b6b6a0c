"""Hydra looks for plugins in this namespace alone. The sweeper itself is in :mod:`sdst.sweeps.sweeper`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class JobSweeper(Sweeper):
    """Trains the jobs of a multirun through :func:`sdst.sweeps.sweeper.sweep`.

    Args:
        params: Option -> its values in Hydra's syntax; all combinations are jobs.
        jobs: Overrides of further jobs.
        table: Experiment file whose rows are the jobs, instead of ``params`` and ``jobs``.
        scale: Scale of the table's rows.
        jobs_per_gpu: Number of jobs that may share a GPU.
    """

    def __init__(
        self,
        params: Mapping[str, str],
        jobs: Sequence[Sequence[str]],
        table: str | None,
        scale: str,
        jobs_per_gpu: int,
    ) -> None:
        self.params, self.jobs = params, jobs
        self.table, self.scale, self.jobs_per_gpu = table, scale, jobs_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives; the task is replaced, because a job knows its configuration and its folder."""
        self.context, self.multirun = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Train the jobs of these overrides."""
        # Imported here because Hydra imports all plugins whenever it starts.
        from sdst.sweeps.sweeper import sweep

        sweep(self, arguments)
