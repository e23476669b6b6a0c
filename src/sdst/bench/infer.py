"""``sdst bench infer``: the model and the decoding of moments, for one query, a batch, and a batch on one video."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sdst.bench.rounds import interleave, ratio, spread
from sdst.bench.workload import Workload, about_one_video

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sdst.bench.report import Row
    from sdst.bench.workload import Shape


def bench_infer(configurations: Mapping[str, Sequence[str]], shape: Shape, rounds: int) -> list[Row]:
    """Five rows per configuration, or two with a batch of one query.

    Further configurations also have the ratio of the first one's time to theirs.

    Args:
        configurations: Name -> overrides.
        shape: Sizes of the batch; a single query has the same sizes otherwise.
        rounds: Number of timed rounds.
    """
    sizes = list(dict.fromkeys((1, shape.batch)))
    jobs: dict[str, Callable[[], object]] = {}
    keys = []
    for name, overrides in configurations.items():
        for size in sizes:
            workload = Workload(overrides, replace(shape, batch=size))
            workload.module.eval()
            parts: dict[str, Callable[[], object]] = {
                "model": workload.infer,
                "decoding": partial(workload.decode, workload.infer()),
            }
            if size > 1:
                shared = Workload(overrides, replace(shape, batch=size))
                shared.module.eval()
                shared.batch = about_one_video(shared.batch)
                parts["model, one video"] = shared.infer
            for part, job in parts.items():
                jobs[f"{name} {size} {part}"] = job
                keys.append((name, size, part))
    seconds = interleave(jobs, rounds)
    first = next(iter(configurations))
    rows: list[Row] = []
    for name, size, part in keys:
        times = seconds[f"{name} {size} {part}"]
        row: Row = {"configuration": name, "queries": size, "part": part, "seconds": spread(times)}
        if name != first:
            row[f"{first}_takes_of_it"] = ratio(seconds[f"{first} {size} {part}"], times)
        rows.append(row)
    return rows
