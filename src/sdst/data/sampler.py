"""The order of samples: shuffled by seed and epoch in training, from short to long videos in evaluation."""

from __future__ import annotations

from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (pass, index) of this rank's share of a dataset, shuffled by (seed, pass) in training.

    Passes are counted from the start of training, so epoch e has the passes from e * repeat on. In training all ranks
    get equally many keys, because the first keys of an epoch are repeated where needed. In evaluation every key goes to
    one rank.

    Args:
        lengths: Clips of each sample. Evaluation goes from short to long, so that batches have little padding.
        seed: Seed of the shuffling; None in evaluation.
        repeat: Passes over the dataset per epoch, each in an order of its own; 1 in evaluation.
    """

    def __init__(self, lengths: Sequence[int], seed: int | None, repeat: int = 1) -> None:
        self.lengths = lengths
        self.seed = seed
        self.repeat = repeat
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
            return -(-len(self.lengths) * self.repeat // world)
        return len(range(rank, len(self.lengths), world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = _rank_and_world()
        first = self.epoch * self.repeat
        if self.seed is None:
            order = [(first, index) for index in np.argsort(self.lengths, kind="stable").tolist()]
        else:
            order = [
                (number, index)
                for number in range(first, first + self.repeat)
                for index in np.random.default_rng([self.seed, number])
                .permutation(len(self.lengths))
                .tolist()
            ]
            order = list(islice(cycle(order), len(self) * world))
        epoch, keys = self._done
        yield from order[rank::world][keys * (epoch == self.epoch) :]


def _rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
