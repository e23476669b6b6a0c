"""What a training step costs whatever the machine does besides: operations, bytes kept for backward, peak memory."""

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
from sdst.training.provenance import parameter_table, peak_memory_gb, reset_peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sdst.bench.workload import Shape


@dataclass(frozen=True)
class Costs:
    """Of one training step.

    Attributes:
        parameters: Trainable ones.
        gflop: 10^9 operations of matrix products, convolutions and attention, backward included.
        saved_mb: 10^6 bytes that the forward pass keeps for backward.
        peak_gb: The most memory in use during a step, of the GPU or of the whole process.
    """

    parameters: int
    gflop: float
    saved_mb: float
    peak_gb: float


def measure(overrides: Sequence[str], shape: Shape) -> Costs:
    """Costs of a configuration, counted in a process of its own: what one has used does not come down again."""
    threads = torch.get_num_threads()
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit the memory, and cannot use the GPU
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, (threads,)) as pool:
        return pool.submit(_measure, overrides, shape).result()


def _measure(overrides: Sequence[str], shape: Shape) -> Costs:
    workload = Workload(overrides, shape)
    workload.step()  # makes the optimizer's state
    reset_peak_memory()
    workload.step()
    peak = peak_memory_gb()
    # Compiled code is counted as what it was compiled from.
    eager = Workload([*overrides, "compile=null"], shape)
    return Costs(
        parameters=parameter_table(workload.module)["total"],
        gflop=count_flops(lambda: torch.autograd.backward(eager.loss())) / 1e9,
        saved_mb=saved_for_backward(workload) / 1e6,
        peak_gb=peak,
    )


def count_flops(function: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attention in a call, two per multiplication and addition."""
    return sum(flops_by_operator(function).values())


def flops_by_operator(function: Callable[[], object]) -> dict[str, int]:
    """The same by the name of PyTorch's operator, such as ``addmm``."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        function()
    counts = counter.get_flop_counts().get("Global", {})
    return {operator.__name__: int(count) for operator, count in counts.items()}


def _attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Of the products of (B, H, N, c) queries with (B, H, S, c) keys, and of their weights with as wide values."""
    return 4 * math.prod(query) * key[2]


def _attention_backward(_gradient: Any, query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Without what a kernel computes again to save memory, for that is its way and no work that has to be done."""
    return 2 * _attention(query, key)


_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention} | {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}_backward"): _attention_backward
    for kernel in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
}
"""Operations of attention from the shapes of its arguments: PyTorch knows none of the CPU's kernel."""


def saved_for_backward(workload: Workload) -> int:
    """Bytes that a step keeps for its backward pass beside parameters and batch."""
    inputs = (value for value in vars(workload.batch).values() if isinstance(value, Tensor))
    return saved_bytes(workload.loss, chain(workload.module.parameters(), inputs))


def saved_bytes(forward: Callable[[], Tensor], given: Iterable[Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass; memory that several tensors share counts once.

    Args:
        forward: Returns the loss.
        given: Parameters and inputs, which would be there anyway and do not count.
    """
    references: list[ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        saved = _Saved(
            tensor.detach()
        )  # with its history, an operation's own result would keep the graph alive
        references.append(ref(saved))
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        loss = forward()
    kept = [saved.tensor.untyped_storage() for reference in references if (saved := reference()) is not None]
    del loss  # until here it held the graph, and the graph what is needed; the rest is gone
    there = {tensor.untyped_storage().data_ptr() for tensor in given}
    sizes = {storage.data_ptr(): storage.nbytes() for storage in kept}
    return sum(size for address, size in sizes.items() if address not in there)


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Saved:
    tensor: Tensor
