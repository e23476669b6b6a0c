"""``sdst bench step``: time, operations and memory of one training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdst.bench.costs import measure
from sdst.bench.machine import GEMM_GFLOP, gemm
from sdst.bench.rounds import interleave, ratio, spread
from sdst.bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sdst.bench.costs import Costs
    from sdst.bench.report import Row
    from sdst.bench.rounds import Spread
    from sdst.bench.workload import Shape


def bench_step(configurations: Mapping[str, Sequence[str]], shape: Shape, rounds: int) -> list[Row]:
    """One row per configuration, and one with the ratios of the first to each other configuration.

    Args:
        configurations: Name -> overrides.
        shape: Sizes of the batch.
        rounds: Number of timed steps per configuration.
    """
    costs = {name: measure(overrides, shape) for name, overrides in configurations.items()}
    workloads = {name: Workload(overrides, shape) for name, overrides in configurations.items()}
    jobs: dict[str, Callable[[], object]] = {name: load.step for name, load in workloads.items()}
    for load in workloads.values():
        jobs[f"gemm {load.dtype}"] = gemm(load.device, load.dtype)
    seconds = interleave(jobs, rounds)
    rows = [
        _measured(name, costs[name], spread(seconds[name]), spread(seconds[f"gemm {load.dtype}"]))
        for name, load in workloads.items()
    ]
    first, *others = workloads
    for other in others:
        ratios: Row = {
            "configuration": f"{first} / {other}",
            "seconds": ratio(seconds[first], seconds[other]),
        }
        for cost in ("gflop", "saved_mb", "peak_gb", "parameters"):
            ratios[cost] = getattr(costs[first], cost) / getattr(costs[other], cost)
        rows.append(ratios)
    return rows


def _measured(name: str, costs: Costs, step: Spread, gemm_seconds: Spread) -> Row:
    rate, machine_rate = costs.gflop / step.median, GEMM_GFLOP / gemm_seconds.median
    return {
        "configuration": name,
        "seconds": step,
        "gflop": costs.gflop,
        "gflop_per_second": rate,
        "gemm_gflop_per_second": machine_rate,
        "share_of_gemm": rate / machine_rate,
        "saved_mb": costs.saved_mb,
        "peak_gb": costs.peak_gb,
        "parameters": costs.parameters,
    }
