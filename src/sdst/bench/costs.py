"""Costs of a training step that do not depend on the load of the machine: operations, saved bytes, peak memory."""

from __future__ import annotations

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from sdst.bench.workload import Workload
from sdst.files.orphans import begin_worker
from sdst.training.provenance import parameter_table, peak_memory_gb, reset_peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sdst.bench.workload import Shape


@dataclass(frozen=True)
class Costs:
    """Costs of one training step.

    Attributes:
        parameters: Number of trainable parameters.
        gflop: 10^9 operations of matrix products, convolutions and attention, including backward.
        saved_mb: 10^6 bytes that the forward pass keeps for backward.
        peak_gb: Peak memory during a step, of the GPU or of the whole process.
    """

    parameters: int
    gflop: float
    saved_mb: float
    peak_gb: float


def measure(overrides: Sequence[str], shape: Shape) -> Costs:
    """Costs of a configuration, measured in a separate process because the peak memory of a process never falls."""
    threads = torch.get_num_threads()
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the memory, and cannot use the GPU
    with ProcessPoolExecutor(1, spawn, _begin_worker, (threads,)) as pool:
        return pool.submit(_measure, overrides, shape).result()


def _begin_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    begin_worker()


def _measure(overrides: Sequence[str], shape: Shape) -> Costs:
    workload = Workload(overrides, shape)
    workload.step()  # creates the optimizer's state
    reset_peak_memory()
    workload.step()
    peak = peak_memory_gb()
    # Compiled code cannot be counted, so operations and saved bytes are those of the eager model.
    eager = Workload([*overrides, "compile=null"], shape)
    return Costs(
        parameters=parameter_table(workload.module)["total"],
        gflop=count_flops(lambda: torch.autograd.backward(eager.loss())) / 1e9,
        saved_mb=saved_for_backward(workload) / 1e6,
        peak_gb=peak,
    )


def count_flops(function: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention in a call; a multiply-add counts as two."""
    return sum(flops_by_operator(function).values())


def flops_by_operator(function: Callable[[], object]) -> dict[str, int]:
    """Operations in a call by PyTorch operator, such as ``addmm``; see :func:`count_flops`."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        function()
    counts = counter.get_flop_counts().get("Global", {})
    return {operator.__name__: int(count) for operator, count in counts.items()}


def _attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of (B, H, N, c) queries times (B, H, S, c) keys, and of the weights times (B, H, S, c) values."""
    return 4 * math.prod(query) * key[2]


def _attention_backward(_gradient: Any, query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of backward, without what a kernel recomputes to save memory: that is not necessary work."""
    return 2 * _attention(query, key)


_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention} | {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_backward"): _attention_backward
    for kernel in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
}
"""Operator -> function that computes its operations from shapes; PyTorch lacks one for the CPU kernel."""


def saved_for_backward(workload: Workload) -> int:
    """Bytes that a step keeps for its backward pass, in addition to parameters and batch."""
    inputs = (value for value in vars(workload.batch).values() if isinstance(value, Tensor))
    return saved_bytes(workload.loss, chain(workload.module.parameters(), inputs))


def saved_bytes(forward: Callable[[], Tensor], given: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass; memory shared by several tensors counts once.

    Args:
        forward: Function that returns the loss.
        given: Parameters and inputs; they do not count, because they exist anyway.
    """
    references: list[ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        # Without detach, the result of an operation would keep its own graph alive.
        saved = _Saved(tensor.detach())
        references.append(ref(saved))
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = forward()
    kept = [saved.tensor.untyped_storage() for reference in references if (saved := reference()) is not None]
    del loss  # it held the graph, and the graph held exactly the tensors that backward needs
    existing = {tensor.untyped_storage().data_ptr() for tensor in given}
    sizes = {storage.data_ptr(): storage.nbytes() for storage in kept}
    return sum(size for address, size in sizes.items() if address not in existing)


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Saved:
    tensor: Tensor
