"""Settings that the parts of ``sdst bench gpu`` share. Imports no PyTorch, because the parts run in other processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sdst.bench.gpu.sizes import Sizes


@dataclass(frozen=True)
class Settings:
    """What the parts need to know.

    Attributes:
        device: ``cuda`` or ``cpu``.
        rounds: Number of timed rounds.
        overrides: Overrides of the paper-length training.
        folder: Folder for data, features and runs; it is removed in the end.
        logs: Folder of the logs, which stays.
        threads: Threads of PyTorch; None for PyTorch's default.
        method: Start method of processes.
    """

    device: str
    rounds: int
    overrides: tuple[str, ...]
    folder: Path
    logs: Path
    threads: int | None
    method: str

    @property
    def sizes(self) -> Sizes:
        """Sizes of models, batches and data."""
        from sdst.bench.gpu.sizes import SIZES

        return SIZES[self.device]

    @property
    def accelerator(self) -> str:
        """Override that puts a training on the device."""
        return f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}"

    @property
    def batch(self) -> int:
        """Batch size of the trainings."""
        return self.sizes.step.batch
