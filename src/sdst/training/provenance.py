"""The origin of a run, for run.json: code, versions, machine, parameters, and the memory it used."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdst.features.allocator import return_freed_memory
from sdst.version import __version__

if TYPE_CHECKING:
    from torch import nn

PACKAGES = ("torch", "lightning", "hydra-core", "omegaconf", "torchmetrics", "numpy", "scipy", "h5py")
SOURCE = Path(__file__).parents[1]
"""The folder of the package."""
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
"""Where Linux resets and reports a process's peak memory."""


def describe_run(model: nn.Module) -> dict[str, Any]:
    """Origin of this process (:func:`describe_process`) and the model's parameters."""
    return describe_process() | {"parameters": parameter_table(model)}


def describe_process() -> dict[str, Any]:
    """Command, commit, versions and machine, as plain values."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],  # the program's folder is of no use elsewhere
        "git": _git(),
        "versions": {"python": platform.python_version(), "sdst": __version__}
        | {p: metadata.version(p) for p in PACKAGES},
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "gpu": gpu},
    }


def reset_peak_memory() -> None:
    """Reset the peak that :func:`peak_memory_gb` reports. For CPU memory this works on Linux only."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return_freed_memory()
    with contextlib.suppress(OSError):  # not Linux
        _CLEAR_REFS.write_text("5")


def peak_memory_gb() -> float:
    """Peak memory since the reset in GB: of the GPU if one is used, otherwise of this process."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return round(allocated / 1e9, 2)
    with contextlib.suppress(OSError, StopIteration):
        lines = _STATUS.read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return round(int(peak.split()[1]) * 1024 / 1e9, 2)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)


def parameter_table(model: nn.Module) -> dict[str, int]:
    """Number of trainable parameters of each part of the model, and in total."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0]
            parts[part] = parts.get(part, 0) + parameter.numel()
    return parts | {"total": sum(parts.values())}


def _git() -> dict[str, Any] | None:
    """Commit of the source, and whether it has uncommitted changes; None outside a checkout.

    Untracked files count in the folders that a run reads its code and configuration from, because a user's own model
    may be one. Elsewhere they may be data and results.
    """
    try:
        commit, changes = (
            subprocess.run(["git", *args], cwd=SOURCE, capture_output=True, text=True, check=True).stdout
            for args in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=normal"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    of_run = [line for line in changes.splitlines() if not line.startswith("?? ") or _is_read(line[3:])]
    return {"commit": commit.strip(), "dirty": bool(of_run)}


def _is_read(path: str) -> bool:
    """Whether a path that git prints, relative to the repository, lies in a folder of code or configuration."""
    return path.strip('"').startswith(("src/", "conf/"))
