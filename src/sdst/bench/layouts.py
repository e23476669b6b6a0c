"""``sdst bench layouts``: random reads of complete videos from feature files of several layouts and from .npy files.

HDF5 stores an array (T clips, n layers, width) contiguously, or in chunks that are located and read one by one. HDF5
files are read through ``FeatureStore``, .npy files as directly as possible.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Self

import h5py
import numpy as np

from sdst.bench.rounds import interleave, spread
from sdst.data.store import FeatureStore
from sdst.features.writer import FeatureWriter
from sdst.files.orphans import begin_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sdst.bench.report import Row

CLIPS, WIDTH, POOLING = 75, 768, "adaptive"


def bench_layouts(num_videos: int, num_layers: int, workers: Sequence[int], rounds: int) -> list[Row]:
    """Milliseconds per video, one column per layout.

    Args:
        num_videos: Number of random videos, the same in every layout.
        num_layers: Number of stored layers; reads of all layers and of the last one are measured.
        workers: Numbers of reading processes; 0 means this process.
        rounds: Number of timed rounds; each reads all videos.
    """
    order = np.random.default_rng(0).permutation(num_videos)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        layouts = _write(Path(folder), num_videos, num_layers)
        for number, layers, cold in product(workers, (num_layers, 1), (False, True)):
            wanted = tuple(range(num_layers - layers, num_layers))
            with _Readers(number, order, wanted, cold) as readers:
                jobs = {name: partial(readers.read, path) for name, path in layouts.items()}
                seconds = interleave(jobs, rounds)
            row: Row = {"processes": number, "layers": layers, "page_cache": "cold" if cold else "warm"}
            for name, times in seconds.items():
                row[f"{name}, ms"] = spread([1e3 * time / num_videos for time in times])
            rows.append(row)
    return rows


class _Readers:
    """Context manager for processes that read the videos of a file in random order, each its own share."""

    def __init__(self, workers: int, order: NDArray[np.int64], layers: Sequence[int], cold: bool) -> None:
        self.pool = ProcessPoolExecutor(workers, get_context("fork"), begin_worker) if workers else None
        self.shares = np.array_split(order, workers or 1)
        self.layers = tuple(layers)
        self.cold = cold

    def read(self, path: Path) -> None:
        """Read every video once."""
        if self.cold:
            for file in path.iterdir() if path.is_dir() else (path,):
                with file.open("rb") as opened:  # drops the file from the page cache
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        parts = partial(_read, path, self.layers)
        list(map(parts, self.shares) if self.pool is None else self.pool.map(parts, self.shares))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()


def _read(path: Path, layers: tuple[int, ...], videos: NDArray[np.int64]) -> None:
    for video in videos:
        if path.is_dir():
            array = np.load(path / f"{video}.npy")[:, layers].transpose(1, 0, 2)
        else:
            array = _store(path, layers).video(str(video))
        np.ascontiguousarray(array)


@cache
def _store(path: Path, layers: tuple[int, ...]) -> FeatureStore:
    return FeatureStore(path, video_layers=layers)


def _write(folder: Path, num_videos: int, num_layers: int) -> dict[str, Path]:
    """Write the same random videos in every layout; returns layout -> file, or folder of .npy files."""
    plain, npy = folder / "plain.h5", folder / "npy"
    npy.mkdir()
    rng = np.random.default_rng(0)
    layers = range(num_layers)
    with FeatureWriter(
        plain, backbone="none", video_layers=layers, text_layers=layers, clip_seconds=2.0, simulated=True
    ) as writer:
        writer.write_text(0, np.zeros((1, num_layers, 1)))
        for video in range(num_videos):
            features = rng.standard_normal((CLIPS, num_layers, WIDTH), dtype=np.float32).astype(np.float16)
            writer.write_video(POOLING, str(video), features)
            np.save(npy / f"{video}.npy", features)
        writer.finish()
    paths = {"in one piece": plain}
    for name, chunks in {
        "chunk per layer": (CLIPS, 1, WIDTH),
        "chunk per clip": (1, num_layers, WIDTH),
    }.items():
        paths[name] = folder / f"{name}.h5"
        with h5py.File(plain) as source, h5py.File(paths[name], "w") as target:
            target.attrs.update(source.attrs)
            source.copy("text", target)
            for video, features in source[f"video/{POOLING}"].items():
                target.create_dataset(f"video/{POOLING}/{video}", data=features[()], chunks=chunks)
    os.sync()  # only data on disk can be dropped from the page cache
    return {**paths, "one .npy per video": npy}
