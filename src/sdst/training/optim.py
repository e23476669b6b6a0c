"""AdamW with linear warm-up and step decay (App. A, Tab. A)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from sdst.config.schema import Optimization


def make_optimizer(
    options: Optimization, parameters: Iterable[nn.Parameter], steps_per_epoch: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """The optimizer and its schedule, which advances once a step."""
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=True)
    # A fused step can undo fp16's loss scaling, so Lightning would not clip before it. This one leaves it alone.
    optimizer._step_supports_amp_scaling = False
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: options.factor(step, steps_per_epoch)
    )
    return optimizer, schedule
