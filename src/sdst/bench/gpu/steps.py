"""Training steps at the paper's shapes: eager in each precision, compiled, and captured as CUDA graphs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from sdst.bench.costs import count_flops
from sdst.bench.gpu.agreement import difference
from sdst.bench.machine import gemm, gemm_gflop
from sdst.bench.rounds import interleave, spread
from sdst.bench.workload import Workload
from sdst.errors import UserError
from sdst.training.provenance import peak_memory_gb, reset_peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sdst.bench.gpu.settings import Settings
    from sdst.bench.report import Row

NO_DROPOUT = ("model.dropout=0", "model.drop_path=0")
COMPARED_STEPS = 4
"""Training steps whose losses are compared with those of eager execution."""
TOLERANCE = 1e-3
"""Largest relative difference of these losses, in float32."""


def eager(settings: Settings, seconds: float) -> Iterator[Row]:
    """Steps in each precision."""
    flops = _flops(settings)
    for precision in settings.sizes.precisions:
        workload = _workload(settings, f"trainer.precision={precision}")
        yield {"case": precision, **measure(workload, settings, flops)}


def compiled(settings: Settings, seconds: float) -> Iterator[Row]:
    """Steps under ``compile=inductor``, after a comparison with eager execution."""
    backend = settings.sizes.backend
    override = f"compile={backend}"
    yield from _check(settings, f"compile={backend}", lambda workload: None, override)
    yield from _timed(settings, f"compile={backend}", lambda workload: None, override)


def captured(settings: Settings, seconds: float) -> Iterator[Row]:
    """The same with CUDA graphs, as ``compile_mode=reduce-overhead`` trains."""
    arguments: dict[str, Any] = dict(settings.sizes.capture)
    name = ", ".join(f"{key}={value}" for key, value in arguments.items())

    def capture(workload: Workload) -> None:
        workload.module.model.compile(**arguments)

    yield from _check(settings, name, capture)
    yield from _timed(settings, name, capture)


def _check(
    settings: Settings, name: str, prepare: Callable[[Workload], None], *overrides: str
) -> Iterator[Row]:
    """Compare the losses of some steps without dropout with those of eager execution, in float32.

    Raises:
        UserError: They differ.
    """
    plain = [*NO_DROPOUT, "trainer.precision=32-true"]
    expected = _losses(_workload(settings, *plain))
    workload = _workload(settings, *plain, *overrides)
    prepare(workload)
    largest = difference(_losses(workload), expected)
    yield {"case": f"{name}, losses of {COMPARED_STEPS} steps against eager", "difference": largest}
    if not largest <= TOLERANCE:
        raise UserError(f"losses differ from eager execution by {largest:.2g}, more than {TOLERANCE:g}")


def _losses(workload: Workload) -> torch.Tensor:
    """(COMPARED_STEPS,) losses before each step."""
    losses = []
    for _ in range(COMPARED_STEPS):
        _begin_step()
        loss = workload.loss()
        losses.append(float(loss))
        workload.update(loss)
    return torch.tensor(losses)


def _timed(
    settings: Settings, name: str, prepare: Callable[[Workload], None], *overrides: str
) -> Iterator[Row]:
    if settings.device == "cuda":
        torch._dynamo.reset()  # what was compiled for the comparison counts against the limit of recompilations
        torch._dynamo.utils.counters.clear()
    workload = _workload(settings, *overrides)
    prepare(workload)
    start = time.perf_counter()
    workload.step()
    first = time.perf_counter() - start
    yield {
        "case": name,
        "first_step_seconds": first,
        **measure(workload, settings, _flops(settings)),
        "graphs": _counted("stats", "unique_graphs"),
        "graph_breaks": _counted("graph_break"),
        "cudagraph_skips": _counted("inductor", "cudagraph_skips"),
    }


def _begin_step() -> None:
    """Let captured graphs write over the results of the step before."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _counted(group: str, name: str | None = None) -> int:
    """A count of ``torch.compile`` in this process."""
    from torch._dynamo.utils import counters

    counts = counters[group]
    return int(sum(counts.values()) if name is None else counts[name])


def _workload(settings: Settings, *overrides: str) -> Workload:
    return Workload([*settings.sizes.timed, settings.accelerator, *overrides], settings.sizes.step)


def measure(workload: Workload, settings: Settings, flops: int) -> Row:
    """Speed and memory of a workload's steps, each of which waits for the GPU.

    ``idle_share`` is the part of a step's time in which nothing ran on the GPU; profiling makes it a bit larger.

    Args:
        workload: Model and batch.
        settings: Rounds, and the size of the product that gives the machine's rate.
        flops: Operations of a step.
    """

    def step() -> None:
        _begin_step()
        workload.step()

    step()
    reset_peak_memory()
    step()
    peak = peak_memory_gb()
    product = gemm(workload.device, workload.dtype, settings.sizes.product)
    seconds = interleave({"step": step, "product": product}, settings.rounds)
    times = {name: spread(values) for name, values in seconds.items()}
    rate = gemm_gflop(settings.sizes.product) / times["product"].median
    return {
        "steps_per_second": 1 / times["step"].median,
        "seconds": times["step"],
        "peak_gb": peak,
        "idle_share": idle_share(step, workload.device),
        "share_of_product_rate": flops / 1e9 / times["step"].median / rate,
    }


def _flops(settings: Settings) -> int:
    """Operations of a step, counted on eager code."""
    workload = _workload(settings)
    return count_flops(lambda: torch.autograd.backward(workload.loss()))


def idle_share(step: Callable[[], None], device: torch.device) -> float:
    """Share of a step's time in which the device executed nothing."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        step()
        wall = time.perf_counter() - start
    wanted = "CUDA" if on_gpu else "CPU"
    events = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type.name == wanted
    ]
    return max(0.0, 1 - covered(events) / 1e6 / wall)


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end)."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
