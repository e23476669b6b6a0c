"""``sdst bench scale``: the training cost per clip as videos, moment queries or batches grow."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdst.bench.costs import count_flops, saved_for_backward
from sdst.bench.rounds import interleave, spread
from sdst.bench.workload import Workload
from sdst.plotting.figure import make_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sdst.bench.report import Row
    from sdst.bench.workload import Shape

STYLES = {"time_per_clip": "o-", "bytes_per_clip": "s--", "operations_per_clip": "^:"}
"""Columns of the picture -> line style."""


def bench_scale(
    overrides: Sequence[str], shape: Shape, axes: Mapping[str, Sequence[int]], rounds: int
) -> list[Row]:
    """One row per size: a step's cost, and its time, bytes kept for backward and operations per clip.

    The values per clip are relative to those of the first size.

    Args:
        overrides: Overrides of the configuration.
        shape: Sizes that stay fixed while one grows.
        axes: Field of ``Shape`` -> its sizes.
        rounds: Number of timed steps per size.
    """
    rows: list[Row] = []
    for axis, sizes in axes.items():
        shapes = [replace(shape, **{axis: size}) for size in sizes]
        workloads = [Workload(overrides, each) for each in shapes]
        names = list(map(str, sizes))
        jobs = {name: workload.step for name, workload in zip(names, workloads, strict=True)}
        seconds = [spread(times) for times in interleave(jobs, rounds).values()]
        saved = [saved_for_backward(workload) for workload in workloads]
        flops = [count_flops(workload.step) for workload in workloads]
        clips = [each.batch * each.clips for each in shapes]
        rows += [
            {
                "grows": axis,
                "size": sizes[i],
                "seconds": seconds[i],
                "saved_mb": saved[i] / 1e6,
                "gflop": flops[i] / 1e9,
                "time_per_clip": seconds[i].median / clips[i] / (seconds[0].median / clips[0]),
                "bytes_per_clip": saved[i] / clips[i] / (saved[0] / clips[0]),
                "operations_per_clip": flops[i] / clips[i] / (flops[0] / clips[0]),
            }
            for i in range(len(sizes))
        ]
    return rows


def plot_scale(rows: Sequence[Row], path: Path) -> None:
    """Draw how time, bytes and operations per clip grow, one panel per axis.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    axes = list(dict.fromkeys(row["grows"] for row in rows))
    figure = make_figure(4 * len(axes), 3.2)
    for panel, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        chosen = [row for row in rows if row["grows"] == axis]
        sizes = [row["size"] for row in chosen]
        for column, style in STYLES.items():
            panel.plot(sizes, [row[column] for row in chosen], style, label=column.replace("_", " "))
        panel.set_xscale("log")
        panel.set_xticks(sizes, map(str, sizes), minor=False)
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set_xlabel({"clips": "clips", "queries": "moment queries", "batch": "batch"}[axis])
    figure.axes[0].set_ylabel("a training step, smallest size = 1")
    figure.axes[0].legend()
    save_figure(figure, path)
