"""Sizes of everything that ``sdst bench gpu`` runs: the paper's on a GPU, tiny ones on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field

from sdst.bench.workload import Shape


@dataclass(frozen=True)
class Sizes:
    """Sizes of models, batches and data.

    Attributes:
        model: Overrides of every model.
        sdst: Further overrides of SDST.
        timed: Overrides that choose the model whose steps are timed.
        precisions: Precisions in which eager steps are timed.
        trainings: Overrides of complete trainings.
        jobs: Jobs of the multirun, all at once.
        step: Batch of the timed steps.
        check: Batch of the comparisons with the CPU.
        resumed: Methods whose training is interrupted and resumed.
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
    precisions: tuple[str, ...] = ("16-mixed", "bf16-mixed", "32-true")
    trainings: tuple[str, ...] = ()
    jobs: int = 2
    step: Shape = field(default_factory=Shape)
    check: Shape = field(default_factory=lambda: Shape(batch=8))
    resumed: tuple[str, ...] = ("sdst", "r2_tuning")
    short: tuple[int, int] = (256, 64)
    paper: tuple[int, int] = (7218, 1550)
    epochs: int = 60
    video_seconds: int = 150
    backend: str = "inductor"
    capture: tuple[tuple[str, str], ...] = (("mode", "reduce-overhead"),)
    backbone: str = "internvideo2-1b"
    clips: int = 32
    product: int = 8192


_TINY = Shape(batch=4, clips=6, tokens=5, queries=4, levels=1, video_dim=16, text_dim=16)
SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(
        model=("model.dim=16", "model.heads=2"),
        sdst=("model.num_queries=4", "model.roi_bins=4", "model.actionness_dim=8"),
        timed=("model=last_layer", "model.dim=16", "model.heads=2", "model.dropout=0", "model.drop_path=0"),
        precisions=("16-mixed",),
        trainings=("data.num_workers=0",),
        jobs=1,  # so joblib starts no processes, which spend seconds on imports; other tests start them
        step=_TINY,
        check=_TINY,
        resumed=("sdst",),
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
