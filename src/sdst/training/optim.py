"""AdamW with linear warm-up and step decay (App. A, Tab. A)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


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

    def build(
        self, parameters: Iterable[nn.Parameter], steps_per_epoch: int
    ) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        """The optimizer and its schedule, which advances once a step."""
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, foreach=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.factor(step, steps_per_epoch)
        )
        return optimizer, schedule
