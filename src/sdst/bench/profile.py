"""``sdst bench profile``: time of a training step by kind of operation, and the least its arithmetic can take here."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch.autograd.profiler import profile

from sdst.bench.costs import flops_by_operator
from sdst.bench.machine import GEMM_GFLOP, gemm
from sdst.bench.rounds import interleave, spread
from sdst.bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.bench.report import Row
    from sdst.bench.workload import Shape

PARTS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "convolution": ("*convolution*",),
    "attention": ("_scaled_dot_product*",),
    "reading at positions": ("_embedding_bag*", "sort"),
    "layer norm": ("native_layer_norm*",),
    "copies and fills": ("copy_", "cat", "fill_", "zero_"),
    "element by element": ("*",),
}
"""Part of a step -> name patterns of its PyTorch operators; the first matching part counts."""
BETWEEN = "between operators"
LIMITS = {
    "matrix products": "arithmetic",
    "convolution": "arithmetic",
    "attention": "arithmetic",
    BETWEEN: "overhead",
}
"""Part -> what limits its speed; all other parts are limited by memory traffic."""


def bench_profile(overrides: Sequence[str], shape: Shape, rounds: int) -> list[Row]:
    """One row per part of a step, and one for the complete step.

    Profiling slows a step down; ``sdst bench step`` measures the true time. ``floor_seconds`` is the time of a part's
    operations at the rate of a large matrix product.

    Args:
        overrides: Overrides of the configuration.
        shape: Sizes of the batch.
        rounds: Number of profiled steps.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # otherwise the profiler logs every start and stop
    workload = Workload(overrides, shape)
    multiply = gemm(workload.device, workload.dtype)
    steps: list[dict[str, float]] = []
    jobs = {"step": lambda: steps.append(_profiled(workload)), "gemm": multiply}
    rate = GEMM_GFLOP / spread(interleave(jobs, rounds)["gemm"]).median
    steps = steps[1:]  # the first step does not count, because it allocates memory
    gflop: dict[str, float] = defaultdict(float)
    for operator, count in flops_by_operator(workload.step).items():
        gflop[_part(operator)] += count / 1e9
    total_seconds = spread([sum(step.values()) for step in steps])
    rows: list[Row] = []
    for part in (*PARTS, BETWEEN):
        seconds = spread([step[part] for step in steps])
        rows.append(
            {
                "part": part,
                "bound_by": LIMITS.get(part, "memory"),
                "seconds": seconds,
                "share": seconds.median / total_seconds.median,
                "gflop": gflop[part],
                "floor_seconds": gflop[part] / rate,
            }
        )
    total = sum(gflop.values())
    return [
        *rows,
        {
            "part": "all",
            "seconds": total_seconds,
            "share": 1.0,
            "gflop": total,
            "floor_seconds": total / rate,
        },
    ]


def _profiled(workload: Workload) -> dict[str, float]:
    """Part -> seconds of one step spent in it."""
    on_gpu = workload.device.type == "cuda"
    with profile(use_device="cuda" if on_gpu else None) as profiler:
        start = time.perf_counter()
        workload.step()
        wall = time.perf_counter() - start
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            seconds[_part(event.key.removeprefix("aten::"))] += microseconds / 1e6
    seconds[BETWEEN] = wall - sum(seconds.values())
    return seconds


def _part(operator: str) -> str:
    """The part that an operator such as ``addmm`` belongs to."""
    return next(
        part
        for part, patterns in PARTS.items()
        if any(fnmatchcase(operator, pattern) for pattern in patterns)
    )
