"""Every option of a run as a dataclass: its type, its default and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES = ("intermediate", "last")
DIRECTIONS = ("ascending", "descending")
NMS_KINDS = ("linear", "gaussian", "hard", "drop", "fusion", "none")
SCORES = ("auto", "both", "class", "actionness")


@dataclass
class Levels:
    """Which backbone layers the model reads, counted back from the last one stored.

    If only one layer of a tower is stored, as in most published features, that layer is read K times, as with ``last``.

    Attributes:
        count: Number of levels K.
        source: ``intermediate`` layers, or the ``last`` layer K times, of both towers.
        stride: Distance between neighbouring levels, in layers of the video tower (Tab. 4).
        text_stride: The same in the text tower. *Reading*: 1, whatever ``stride`` is. Tab. 4 studies how the
            pooling of eq. 15 works on shallower layers, and only the video tower is pooled; so the text levels are
            always the last K layers of the text tower.
        direction: ``ascending`` makes level 1 the shallowest, ``descending`` the deepest. *Reading*: descending for
            SDST, as in R2-Tuning's recurrence; this also makes SDST learn sooner (docs/learning.md). The baselines take
            their levels ascending, and R2-Tuning reverses them itself. With ``last``, both directions are the same.

    Raises:
        UserError: A value is out of range.
    """

    count: int = 4
    source: str = "intermediate"
    stride: int = 1
    direction: str = "ascending"
    text_stride: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "stride", "text_stride"):
            if getattr(self, name) < 1:
                raise UserError(f"levels.{name} must be at least 1, got {getattr(self, name)}")
        if self.source not in SOURCES:
            raise UserError(f"levels.source must be intermediate or last, got {self.source!r}")
        if self.direction not in DIRECTIONS:
            raise UserError(f"levels.direction must be ascending or descending, got {self.direction!r}")

    def video_layers(self, stored: Sequence[int]) -> list[int]:
        """Layers of the video tower for levels 1..K; reading the features fails if one of them is not stored."""
        return self._choose(stored, self.stride)

    def text_layers(self, stored: Sequence[int]) -> list[int]:
        """The same for the text tower."""
        return self._choose(stored, self.text_stride)

    def _choose(self, stored: Sequence[int], stride: int) -> list[int]:
        step = stride if self.source == "intermediate" and len(stored) > 1 else 0
        layers = [max(stored) - step * back for back in reversed(range(self.count))]
        return layers if self.direction == "ascending" else layers[::-1]


@dataclass
class LossConfig:
    """Weights of eq. 14 and constants of the losses.

    *Reading*: the columns of Tab. G are cls, L1, sal, video, layer, IoU, act.

    Attributes:
        weights: Weight of each term. A head that only a term of weight 0 trains is excluded from matching and scoring.
        match_weights: Weights of the costs that match queries with true moments.
        alpha: Weight of positives in the focal loss, where negatives have 1 - alpha; null gives both weight 1.
        gamma: Exponent of the focal loss.
        temperature: Temperature of the contrastive losses, saliency and alignment.
        over_levels: How ``cls``, ``l1`` and ``iou`` of the K levels are combined: ``sum``, like DETR's auxiliary
            losses, or ``mean``, which keeps the balance of MR and HD for any K. *Reading*: sum.
    """

    weights: dict[str, float] = field(
        default_factory=lambda: {
            "cls": 1.0,
            "l1": 1.0,
            "iou": 1.0,
            "act": 1.0,
            "sal": 0.1,
            "video": 0.1,
            "layer": 0.1,
        }
    )
    match_weights: dict[str, float] = field(default_factory=lambda: {"cls": 1.0, "l1": 1.0, "iou": 1.0})
    alpha: float | None = 0.25
    gamma: float = 2.0
    temperature: float = 0.07
    over_levels: str = "sum"


@dataclass
class Optimization:
    """The paper's optimisation; the defaults are those of QVHighlights.

    Attributes:
        lr: Learning rate after warm-up.
        weight_decay: Weight decay of AdamW, on every parameter.
        warmup_steps: Steps of linear warm-up.
        warmup_ratio: Factor on ``lr`` at the first step.
        decay_epochs: Number of epochs between two falls of the rate, or a list of the epochs after which it falls, such
            as ``[30, 45]``; with ``[]`` it never falls.
        decay: Factor on the rate at each fall.

    Raises:
        UserError: A value is out of range.
    """

    lr: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 2000
    warmup_ratio: float = 0.001
    decay_epochs: Any = 20
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UserError(f"optim.warmup_steps must be at least 0, got {self.warmup_steps}")
        listed = isinstance(self.decay_epochs, list)
        epochs = self.decay_epochs if listed else [self.decay_epochs]
        if any(type(epoch) is not int or epoch < 1 for epoch in epochs) or epochs != sorted(set(epochs)):
            raise UserError(
                "optim.decay_epochs must be a whole number of at least 1, or a rising list of them like [30,45], got "
                f"{self.decay_epochs!r}"
            )
        for name in ("lr", "weight_decay", "warmup_ratio", "decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"optim.{name} must be finite and at least 0, got {getattr(self, name)}")

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Factor on ``lr`` in step 0, 1, 2, ..."""
        warm = min(1.0, self.warmup_ratio + (1 - self.warmup_ratio) * step / max(1, self.warmup_steps))
        epochs = step // steps_per_epoch
        every = self.decay_epochs
        falls = sum(epoch <= epochs for epoch in every) if isinstance(every, list) else epochs // every
        return warm * float(self.decay**falls)


@dataclass
class Decoding:
    """How moments are decoded. *Reading*: the paper says "soft NMS" and no more.

    Attributes:
        nms: Factor on the score of a window that overlaps a better one: ``linear`` 1 - IoU,
            ``gaussian`` exp(-IoU² / sigma), ``hard`` 0, ``none`` 1; ``drop`` removes the window instead, and ``fusion``
            joins overlapping windows, also those of a second head (``sdst.models.fusion``).
        sigma: Width of the Gaussian.
        iou_threshold: Windows with an IoU above it lose score, or are joined; 0 for all that overlap.
        round_to: Starts and ends are rounded to multiples of this many seconds; null keeps them.
        max_moments: Number of moments to keep, chosen by score before NMS (with ``drop`` and ``fusion``, after it);
            null for all, 0 for data sets without moments, whose runs train no moment loss.
        score: Score that ranks the moments: ``both`` class probability and actionness (eq. 23), or ``class`` or
            ``actionness`` alone if the loss of the other is off (Tab. E); ``auto`` is resolved before training, from
            the loss weights.

    Raises:
        UserError: A value is out of range.
    """

    nms: str
    sigma: float
    iou_threshold: float
    round_to: float | None
    max_moments: int | None
    score: str = "both"

    def __post_init__(self) -> None:
        if self.nms not in NMS_KINDS:
            raise UserError(f"decode.nms must be one of {', '.join(NMS_KINDS)}, got {self.nms!r}")
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UserError(f"decode.sigma must be positive, got {self.sigma}")
        if not 0 <= self.iou_threshold <= 1:
            raise UserError(f"decode.iou_threshold must lie in [0, 1], got {self.iou_threshold}")
        if self.round_to is not None and not (math.isfinite(self.round_to) and self.round_to > 0):
            raise UserError(f"decode.round_to must be positive seconds or null, got {self.round_to}")
        if self.max_moments is not None and self.max_moments < 0:
            raise UserError(f"decode.max_moments must be at least 0, or null for all, got {self.max_moments}")
        if self.score not in SCORES:
            raise UserError(f"decode.score must be one of {', '.join(SCORES)}, got {self.score!r}")


@dataclass
class SelectConfig:
    """The best checkpoint has the highest ``metric`` on ``split``.

    Attributes:
        split: ``val``, or ``test`` if the data set has no validation split.
        metric: Key of the split's metrics.
    """

    split: str = "val"
    metric: str = "MR-full-mAP"


@dataclass
class PathsConfig:
    """Folders; the environment variables SDST_DATA, SDST_FEATURES and SDST_RUNS move them.

    Attributes:
        data: Folder of the annotations.
        features: Folder of the feature files.
        runs: Folder of the runs.
    """

    data: str = MISSING
    features: str = MISSING
    runs: str = MISSING


@dataclass
class TrainConfig:
    """Everything a run depends on.

    Attributes:
        group: Name that runs share, such as a table's, for loggers that show such runs together; a multirun sets it.
        name: Name of the run for loggers, such as "table5/Stand. CA/seed 1"; a multirun sets it.
        tags: Words to find the run by in loggers; by default the choices of all groups.
        seed: Seed of initial weights, shuffling, positive clips and dropout.
        run_dir: Run folder to write; one that holds a finished run is refused.
        resume: Folder of a run to continue, or ``latest`` for the newest unfinished one below ``paths.runs``;
            ``auto`` continues ``run_dir``, begins it, or leaves it if it is finished; null begins a run.
        init_from: Run, checkpoint or pushed model whose weights training begins with; null begins with random ones.
        compile: Backend of ``torch.compile`` (``inductor``), or null for eager execution.
        compile_mode: ``reduce-overhead`` captures the compiled model in CUDA graphs, one for each shape of a batch (see
            ``data.pad_to``), where there is a GPU for it; null compiles without them.
        recompute: Compute most activations twice in training instead of keeping them: activations then take four tenths
            of the memory, and training a fifth more operations, with the same result.
        levels: Backbone layers that the model reads.
        loss: Loss weights and constants.
        optim: Optimizer and schedule.
        decode: Decoding of the model's output into moments.
        select: Choice of the best checkpoint.
        model: Constructor of the model.
        data: Constructor of the data module.
        trainer: Constructor of the Lightning trainer.
        callbacks: Name -> constructor of a Lightning callback, besides those of sdst.
        logger: Constructors of the loggers.
        paths: Folders of data, features and runs.
    """

    group: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    seed: int = 0
    run_dir: str = MISSING
    resume: str | None = None
    init_from: str | None = None
    compile: str | None = None
    compile_mode: str | None = None
    recompute: bool = False
    levels: Levels = field(default_factory=Levels)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: Optimization = field(default_factory=Optimization)
    decode: Decoding = MISSING
    select: SelectConfig = field(default_factory=SelectConfig)
    model: Any = MISSING
    data: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = field(default_factory=dict)
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
