"""Settings of ``sdst bench gpu``: the device, the sizes of everything that is run, and where files are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdst.bench.workload import Shape

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Sizes:
    """Sizes of models, batches and data.

    Attributes:
        model: Overrides of every model.
        sdst: Further overrides of SDST.
        timed: Overrides that choose the model whose steps are timed.
        step: Batch of the timed steps.
        check: Batch of the comparisons with the CPU.
        short: Queries of training and validation in the short trainings.
        paper: The same in the paper-length training.
        epochs: Epochs of the paper-length training.
        video_seconds: Length of every video.
        backend: Backend of ``torch.compile``.
        capture: Arguments of ``Module.compile`` that capture CUDA graphs.
        backbone: Preset of the vision tower.
        clips: Clips in a batch of the vision tower.
        product: Rows and columns of the matrices whose product gives the machine's rate.
    """

    model: tuple[str, ...] = ()
    sdst: tuple[str, ...] = ()
    timed: tuple[str, ...] = ("model=sdst",)
    step: Shape = field(default_factory=Shape)
    check: Shape = field(default_factory=lambda: Shape(batch=8))
    short: tuple[int, int] = (256, 64)
    paper: tuple[int, int] = (7218, 1550)
    epochs: int = 60
    video_seconds: int = 150
    backend: str = "inductor"
    capture: tuple[tuple[str, str], ...] = (("mode", "reduce-overhead"),)
    backbone: str = "internvideo2-1b"
    clips: int = 32
    product: int = 8192


_TINY = Shape(batch=4, clips=6, tokens=5, queries=4, levels=2, video_dim=16, text_dim=16)
SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(
        model=("model.dim=16", "model.heads=2"),
        sdst=("model.num_queries=4", "model.roi_bins=4", "model.actionness_dim=8"),
        timed=("model=last_layer", "model.dim=16", "model.heads=2"),
        step=_TINY,
        check=_TINY,
        short=(12, 4),
        paper=(16, 4),
        epochs=2,
        video_seconds=12,
        backend="eager",
        capture=(("backend", "eager"),),
        backbone="small-world",
        clips=2,
        product=64,
    ),
}
"""Device -> sizes. On a CPU the whole script runs at tiny sizes, as a test of the script."""


@dataclass(frozen=True)
class Settings:
    """What the parts need to know.

    Attributes:
        device: ``cuda`` or ``cpu``.
        sizes: Sizes of models, batches and data.
        rounds: Number of timed rounds.
        overrides: Overrides of the paper-length training.
        folder: Folder for data, features and runs; it is removed in the end.
        method: Start method of processes.
    """

    device: str
    sizes: Sizes
    rounds: int
    overrides: tuple[str, ...]
    folder: Path
    method: str

    @property
    def accelerator(self) -> str:
        """Override that puts a training on the device."""
        return f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}"

    @property
    def batch(self) -> int:
        """Batch size of the trainings."""
        return self.sizes.step.batch
