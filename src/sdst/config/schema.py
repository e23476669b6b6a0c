"""Every option of a run as a dataclass: its type, its default and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

NMS_KINDS = ("linear", "gaussian", "hard", "none")
SCORES = ("auto", "both", "class", "actionness")


@dataclass
class Levels:
    """A choice of layers, counted from the last one stored.

    Attributes:
        count: K, how many levels there are.
        source: ``intermediate`` layers, or the ``last`` layer K times, of both towers.
        stride: Distance between neighbouring levels in layers of the video tower (Tab. 4).
        text_stride: The same in the text tower. *Reading*: 1, whatever ``stride`` is. Tab. 4 is about what the
            pooling of eq. 15 makes of shallower layers, and only the video tower is pooled; the text levels are
            always the last K of its layers.
        order: ``ascending`` lets level 1 be the shallowest, ``descending`` the deepest. *Reading*: ascending.
    """

    count: int = 4
    source: str = "intermediate"
    stride: int = 1
    order: str = "ascending"
    text_stride: int = 1

    def __post_init__(self) -> None:
        for name in ("count", "stride", "text_stride"):
            if getattr(self, name) < 1:
                raise UserError(f"levels: {name} {getattr(self, name)} must be at least 1")
        if self.source not in ("intermediate", "last"):
            raise UserError(f"levels.source: {self.source!r} is neither intermediate nor last")
        if self.order not in ("ascending", "descending"):
            raise UserError(f"levels.order: {self.order!r} is neither ascending nor descending")

    def video_layers(self, stored: Sequence[int]) -> list[int]:
        """Layers of the video tower for levels 1..K out of those stored; the store says so where one is absent."""
        return self._choose(stored, self.stride)

    def text_layers(self, stored: Sequence[int]) -> list[int]:
        """The same for the text tower."""
        return self._choose(stored, self.text_stride)

    def _choose(self, stored: Sequence[int], stride: int) -> list[int]:
        step = stride if self.source == "intermediate" else 0
        layers = [max(stored) - step * back for back in reversed(range(self.count))]
        return layers if self.order == "ascending" else layers[::-1]


@dataclass
class LossConfig:
    """Weights of eq. 14 and the constants of the losses.

    *Reading*: the columns of Tab. G are cls, L1, sal, video, layer, IoU, act.

    Attributes:
        weights: Of each term; a term of weight 0 takes what it alone trains out of everything else.
        match_weights: Of the costs by which queries and true moments are matched.
        alpha: Share of the positives in the focal loss; null for no such balance.
        gamma: Its exponent.
        temperature: Of the contrastive losses: saliency and alignment.
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


@dataclass
class Optimization:
    """The paper's optimisation; defaults are those of QVHighlights.

    Attributes:
        lr: Learning rate after warm-up.
        weight_decay: Of AdamW, on every parameter.
        warmup_steps: Steps of linear warm-up.
        warmup_ratio: Factor on ``lr`` at the first step.
        decay_epochs: After every so many epochs the rate falls.
        decay: What it is multiplied with then.

    Raises:
        UserError: A value is out of range.
    """

    lr: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 2000
    warmup_ratio: float = 0.001
    decay_epochs: int = 20
    decay: float = 0.1

    def __post_init__(self) -> None:
        for name, lowest in {"warmup_steps": 0, "decay_epochs": 1}.items():
            if getattr(self, name) < lowest:
                raise UserError(f"optim.{name}: {getattr(self, name)} must be at least {lowest}")
        for name in ("lr", "weight_decay", "warmup_ratio", "decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UserError(f"optim.{name}: {getattr(self, name)} must be a finite number, 0 or more")

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What ``lr`` is multiplied with in step 0, 1, 2, ..."""
        warm = min(1.0, self.warmup_ratio + (1 - self.warmup_ratio) * step / max(1, self.warmup_steps))
        return warm * float(self.decay ** (step // (steps_per_epoch * self.decay_epochs)))


@dataclass
class Decoding:
    """How moments are decoded. *Reading*: the paper says "soft NMS" and no more.

    Attributes:
        nms: What the score of a window that overlaps a better one is multiplied by: ``linear`` 1 - IoU,
            ``gaussian`` exp(-IoU² / sigma), ``hard`` 0, ``none`` 1.
        sigma: Width of the gaussian.
        iou_threshold: Only windows with an IoU above it are touched; 0 for all that overlap.
        round_to: Seconds to whose multiples starts and ends are rounded; None to leave them.
        max_moments: How many moments to keep, those of the best scores before NMS; None for all.
        score: What ranks the moments: ``both`` class probability and actionness (eq. 23), or one of them where
            the loss of the other is off (Tab. E); ``auto`` is settled before training by the losses' weights.

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
            raise UserError(f"decoding nms: '{self.nms}' is unknown; choose from {', '.join(NMS_KINDS)}")
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UserError(f"decoding sigma: {self.sigma} is no width; give a positive number")
        if not 0 <= self.iou_threshold <= 1:
            raise UserError(
                f"decoding iou_threshold: {self.iou_threshold} is no IoU; give a number in [0, 1]"
            )
        if self.round_to is not None and not (math.isfinite(self.round_to) and self.round_to > 0):
            raise UserError(f"decoding round_to: {self.round_to} is no unit; give positive seconds or null")
        if self.max_moments is not None and self.max_moments < 1:
            raise UserError(
                f"decoding max_moments: {self.max_moments} keeps nothing; give 1 or more, or null"
            )
        if self.score not in SCORES:
            raise UserError(f"decoding score: '{self.score}' is unknown; choose from {', '.join(SCORES)}")


@dataclass
class SelectConfig:
    """Which checkpoint is the best: the one with the highest ``metric`` on ``split``.

    Attributes:
        split: ``val``, or ``test`` where there is no other.
        metric: A key of the split's metrics.
    """

    split: str = "val"
    metric: str = "MR-full-mAP"


@dataclass
class PathsConfig:
    """Where things are; the environment variables SDST_DATA, SDST_FEATURES and SDST_RUNS move them.

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
        group: What the run is a row of, such as a table's name; a sweep sets it. wandb shows its runs together.
        seed: Of initial weights, shuffling, positive clips, dropout.
        run_dir: Where the run writes. One that holds a finished run is refused.
        resume: The folder of a run to continue, or the ``latest`` unfinished one below ``paths.runs``; ``auto``
            continues ``run_dir``, begins it, or leaves it if it is finished; null begins.
        compile: Backend of ``torch.compile`` (``inductor``), or null for eager execution.
        recompute: Let training compute most activations twice instead of keeping them: four tenths of the memory for
            a quarter more time, and the same result.
        levels: Which backbone layers are used.
        loss: Loss weights and constants.
        optim: Optimizer and schedule.
        decode: From the model's output to moments.
        select: How the best checkpoint is chosen.
        model: Constructor of the model.
        data: Constructor of the data module.
        trainer: Constructor of the Lightning trainer.
        logger: Constructor of the logger.
        paths: Where things are.
    """

    group: str | None = None
    seed: int = 0
    run_dir: str = MISSING
    resume: str | None = None
    compile: str | None = None
    recompute: bool = False
    levels: Levels = field(default_factory=Levels)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: Optimization = field(default_factory=Optimization)
    decode: Decoding = MISSING
    select: SelectConfig = field(default_factory=SelectConfig)
    model: Any = MISSING
    data: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)
