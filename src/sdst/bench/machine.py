"""The machine that runs a benchmark: its description and its current speed of matrix multiplication."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdst.training.provenance import describe_process

if TYPE_CHECKING:
    from collections.abc import Callable

GEMM_SIZE = 2048
"""Rows and columns of the multiplied matrices, chosen too large for the caches."""
GEMM_GFLOP = 2 * GEMM_SIZE**3 / 1e9


def describe() -> dict[str, Any]:
    """Command, commit, versions, machine and number of threads, as plain values."""
    facts = describe_process()
    facts["machine"] |= {"cpu": _cpu_name(), "usable_cpus": len(os.sched_getaffinity(0))}
    return facts | {"threads": torch.get_num_threads()}


def gemm_gflop(size: int) -> float:
    """10^9 operations of a product of two square matrices."""
    return 2 * size**3 / 1e9


def gemm(device: torch.device, dtype: torch.dtype, size: int | None = None) -> Callable[[], None]:
    """A job that multiplies two square matrices of :data:`GEMM_SIZE`, or another size: a GPU needs larger ones."""
    size = GEMM_SIZE if size is None else size
    a, b = torch.randn(2, size, size, device=device).to(dtype)

    def multiply() -> None:
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    return multiply


def _cpu_name() -> str:
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
