"""The machine: which GPU, driver and versions, and the rates that a large product and a copy reach."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from sdst.bench import machine
from sdst.bench.rounds import interleave, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdst.bench.gpu.settings import Settings
    from sdst.bench.report import Row

COPIED_BYTES = {"cuda": 2**30, "cpu": 2**16}


def hardware(settings: Settings, seconds: float) -> Iterator[Row]:
    """A row with the machine's description as ``facts``, and one per rate."""
    facts = machine.describe()
    facts["versions"] |= {"cuda": torch.version.cuda, "cudnn": _cudnn()}
    facts["machine"] |= {"driver": _driver()}
    row: Row = {"case": facts["machine"]["cpu"], "facts": facts}
    device = torch.device(settings.device)
    if settings.device == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["machine"] |= {
            "gpus": torch.cuda.device_count(),
            "gpu_memory_gb": properties.total_memory / 1e9,
            "compute_capability": f"{properties.major}.{properties.minor}",
        }
        row["case"] = properties.name
    yield row
    size = settings.sizes.product
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        times = interleave({"product": machine.gemm(device, dtype, size)}, settings.rounds)["product"]
        name = str(dtype).removeprefix("torch.")
        rate = machine.gemm_gflop(size) / 1e3 / spread(times).median
        yield {"case": f"product of {size} × {size} matrices, {name}", "tflop_per_second": rate}
    source = torch.zeros(COPIED_BYTES[settings.device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if settings.device == "cuda":
            torch.cuda.synchronize()

    copying = spread(interleave({"copy": copy}, settings.rounds)["copy"]).median
    yield {
        "case": f"copy of {len(source)} bytes on the device, read and written",
        "gb_per_second": 2 * len(source) / 1e9 / copying,
    }


def _cudnn() -> int | None:
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _driver() -> str | None:
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return None
