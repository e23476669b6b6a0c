"""``sdst bench load``: how fast batches load from the feature file, and how long training waits for them."""

from __future__ import annotations

import time
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from sdst.bench.rounds import interleave, spread
from sdst.bench.workload import Shape, Workload
from sdst.config.build import build
from sdst.config.compose import compose
from sdst.config.schema import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.utils.data import DataLoader

    from sdst.bench.report import Row
    from sdst.data.datamodule import GroundingDataModule
    from sdst.data.dataset import Sample


def bench_load(overrides: Sequence[str], workers: Sequence[int], batches: int, rounds: int) -> list[Row]:
    """One row per number of loading processes.

    Args:
        overrides: Overrides that select data and model.
        workers: Numbers of loading processes; 0 means the training process itself.
        batches: Number of batches per round, at most one epoch.
        rounds: Number of timed rounds.
    """
    config = compose([*overrides, "run_dir=none"])
    OmegaConf.resolve(config)
    options = OmegaConf.to_object(config)
    assert isinstance(options, TrainConfig)
    data: GroundingDataModule = build(config.data, levels=options.levels, seed=options.seed)
    sizes = {"video_dim": data.store.video_dim, "text_dim": data.store.text_dim}
    shape = Shape(batch=1, queries=config.model.get("num_queries", 1), levels=options.levels.count, **sizes)
    workload = Workload(overrides, shape)
    data.hold(workload.device)
    loaders: dict[int, DataLoader[Sample]] = {}
    for number in workers:
        data.num_workers = number
        loaders[number] = data.loader("train")
    batches = min(batches, len(loaders[workers[0]]))

    jobs = {str(number): partial(_drain, loader, batches) for number, loader in loaders.items()}
    seconds = interleave(jobs, rounds)
    rows: list[Row] = []
    for number, loader in loaders.items():
        alone = spread([total / batches for total in seconds[str(number)]])
        trained = [_train(loader, workload, batches) for _ in range(rounds)]
        rows.append(
            {
                "workers": number,
                "batch": data.batch_size,
                "seconds_per_batch": alone,
                "queries_per_second": data.batch_size / alone.median,
                "seconds_per_step": spread([total / batches for _, total in trained]),
                "share_waiting": spread([waiting / total for waiting, total in trained]),
            }
        )
    return rows


def _drain(loader: DataLoader[Sample], batches: int) -> None:
    for _ in islice(loader, batches):
        pass


def _train(loader: DataLoader[Sample], workload: Workload, batches: int) -> tuple[float, float]:
    """Seconds spent waiting for batches, and in total. The first step is excluded: it starts the processes."""
    iterator = iter(loader)
    waiting, start = 0.0, time.perf_counter()
    for number in range(batches):
        requested = time.perf_counter()
        batch = next(iterator)
        waiting += time.perf_counter() - requested
        workload.batch = batch.to(workload.device)
        workload.step()
        if number == 0:
            waiting, start = 0.0, time.perf_counter()
    return waiting, time.perf_counter() - start
