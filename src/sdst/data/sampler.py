"""The order of samples: shuffled by seed and epoch in training, from short to long videos in evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, index) of this rank's share of a dataset, shuffled by (seed, epoch) in training.

    In training all ranks get equally many keys, because the first keys are repeated where needed. In evaluation every
    key goes to one rank.

    Args:
        lengths: Clips of each sample. Evaluation goes from short to long, so that batches have little padding.
        seed: Seed of the shuffling; None in evaluation.
    """

    def __init__(self, lengths: Sequence[int], seed: int | None) -> None:
        self.lengths = lengths
        self.seed = seed
        self.epoch = 0
        self._done = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; the trainer calls this before each epoch, also after resuming."""
        self.epoch = epoch

    def resume(self, epoch: int, keys: int) -> None:
        """Continue an epoch after the first ``keys`` keys of each rank."""
        self.epoch = epoch  # loader processes read ahead before the trainer sets it
        self._done = (epoch, keys)

    def __len__(self) -> int:
        rank, world = _rank_and_world()
        if self.seed is not None:
            return -(-len(self.lengths) // world)
        return len(range(rank, len(self.lengths), world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = _rank_and_world()
        if self.seed is None:
            order = np.argsort(self.lengths, kind="stable")
        else:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.lengths))
            order = np.resize(order, len(self) * world)
        epoch, keys = self._done
        for index in order[rank::world][keys * (epoch == self.epoch) :]:
            yield self.epoch, int(index)


def _rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
