"""The features of a file in two arrays of rows, which a machine's jobs share or a device holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdst.console.progress import progress_bars
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sdst.data.store import FeatureStore

GB = 1e9


@dataclass(frozen=True)
class Table:
    """Where the videos or the queries of a feature file lie among the rows of an array (R, D).

    Row 0 is zero and stands for padding. A layer that several levels read is stored once.

    Attributes:
        width: D.
        slots: Which of an item's layers each of the K levels reads.
        places: Name -> first row and length (T clips or L tokens) of an item; its layers follow each other.
    """

    width: int
    slots: tuple[int, ...]
    places: dict[str, tuple[int, int]]

    @property
    def num_layers(self) -> int:
        """Number of different layers of an item."""
        return max(self.slots) + 1

    @property
    def rows(self) -> int:
        """R."""
        return 1 + self.num_layers * sum(length for _, length in self.places.values())

    @property
    def num_bytes(self) -> int:
        """Size of the float16 array."""
        return 2 * self.rows * self.width

    def item(self, rows: NDArray[np.float16], name: str) -> NDArray[np.float16]:
        """Features (K, T, D) of an item, a view unless a level repeats a layer."""
        first, length = self.places[name]
        layers = rows[first : first + self.num_layers * length].reshape(self.num_layers, length, -1)
        return layers if self.slots == tuple(range(self.num_layers)) else layers[list(self.slots)]


def tables(store: FeatureStore) -> tuple[Table, Table]:
    """The tables of a store's videos and queries, without reading features.

    Raises:
        UserError: An item of the file is damaged.
    """
    return (
        _table(store.video_dim, store.video_layers, {vid: store.num_clips(vid) for vid in store.vids()}),
        _table(store.text_dim, store.text_layers, {qid: store.num_tokens(qid) for qid in store.qids()}),
    )


def _table(width: int, layers: Sequence[int], lengths: dict[str, int]) -> Table:
    distinct = list(dict.fromkeys(layers))
    places, first = {}, 1
    for name, length in lengths.items():
        places[name] = first, length
        first += len(distinct) * length
    return Table(width, tuple(distinct.index(layer) for layer in layers), places)


def fill(store: FeatureStore, video: tuple[Table, Tensor], text: tuple[Table, Tensor], option: str) -> None:
    """Read a whole feature file into arrays of rows, under a progress bar.

    Args:
        store: The file.
        video: The table of the videos, and their (R, Dv) float16 array on any device.
        text: The same of the queries.
        option: The option that asks for it, for the bar.

    Raises:
        UserError: Features are damaged, or hold NaN or Inf.
    """
    parts: list[tuple[Table, Tensor, Callable[[str], NDArray[np.float16]]]] = [
        (*video, store.video),
        (*text, store.text),
    ]
    with progress_bars() as bars:
        task = bars.add_task(
            f"{option}: reading features", total=sum(len(table.places) for table, *_ in parts)
        )
        for table, rows, read in parts:
            levels = [table.slots.index(slot) for slot in range(table.num_layers)]
            rows[0] = 0
            for name, (first, length) in table.places.items():
                item = np.ascontiguousarray(read(name)[levels]).reshape(-1, table.width)
                rows[first : first + table.num_layers * length] = torch.from_numpy(item)
                bars.advance(task)


def require_room(option: str, needed: int, free: int, where: str, advice: str) -> None:
    """Refuse to hold features where they do not fit.

    Args:
        option: The option that asks for it.
        needed: Bytes of the features.
        free: Bytes that are free.
        where: The place, for the message.
        advice: What the user can do, besides leaving the option out.

    Raises:
        UserError: More bytes are needed than are free.
    """
    if needed > free:
        raise UserError(
            f"{option}: the features need {needed / GB:.2f} GB, but {where} has {free / GB:.2f} GB free; "
            f"{advice}, or use data.cache=none"
        )


def available_memory() -> int:
    """Bytes of main memory that this process can still use, within the limit of its container."""
    with Path("/proc/meminfo").open() as file:
        sizes = dict(line.split(":") for line in file)
    free = 1024 * int(sizes["MemAvailable"].split()[0])
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        kinds = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # no container, or another version of cgroups
        return free
    used = int(kinds["anon"]) + int(kinds["shmem"])  # the system frees the page cache when needed
    return free if limit == "max" else min(free, int(limit) - used)
