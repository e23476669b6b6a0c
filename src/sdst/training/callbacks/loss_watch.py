"""Stops a run whose numbers are not finite, and warns of spikes of the loss."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from sdst.files.atomic import write_atomically

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor

    from sdst.training.module import GroundingModule
    from sdst.training.run_folder import RunFolder
    from sdst.types import Qid

logger = logging.getLogger(__name__)

SPIKE, SPIKE_STEPS = 3.0, 50
"""A loss above SPIKE times the median of the SPIKE_STEPS steps before it is a spike."""
MAX_OVERFLOWS = 20
"""Overflows in a row that half precision may have: the scaler halves its first scale, 2^16, to 1 in fewer."""


class LossWatch(Callback):
    """Stops the run at a loss or gradient that is not finite and writes down the step's queries; warns of spikes.

    Written by hand because Lightning's ``detect_anomaly`` is slow and its ``EarlyStopping(check_finite=True)`` looks
    at the end of an epoch and knows no queries. In half precision gradients overflow now and then: the scaler then
    skips the step and halves its scale. Only more than ``MAX_OVERFLOWS`` in a row stop such a run.

    Args:
        run: Run folder that receives nonfinite.json.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._batches: deque[list[Qid]] = deque()  # the queries of each batch of the optimizer's step
        self._unchecked: list[Tensor] = []  # the losses of these batches
        self._logged: float | None = None  # the logged loss of a step's last batch
        self._losses: deque[float] = deque(maxlen=SPIKE_STEPS)
        self._overflows = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """At the first batch of a step, forget the queries of the step before."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches.clear()

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss until the optimizer's step, so that all checks together wait for a GPU only once."""
        module: GroundingModule = pl_module
        self._batches.append(module.qids)
        self._unchecked.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Refuse losses and gradients that are not finite.

        Raises:
            FloatingPointError: A loss is not finite, or a gradient is not finite and there is no scaler that skips the
                step, or it skipped too many.
        """
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(gradients.values())
        logged = trainer.callback_metrics["train/loss"]
        *losses, size, self._logged = torch.stack([*self._unchecked, norm, logged]).tolist()
        self._unchecked.clear()
        for loss in losses:
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss}")
        if math.isfinite(size):
            self._overflows = 0
            return
        self._overflows += 1
        if getattr(trainer.precision_plugin, "scaler", None) is None or self._overflows > MAX_OVERFLOWS:
            bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
            raise FloatingPointError(f"the gradient of {bad[0] if bad else 'all together'} is not finite")

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        """Warn of a spike."""
        loss = float(trainer.callback_metrics["train/loss"]) if self._logged is None else self._logged
        self._logged = None
        full = len(self._losses) == SPIKE_STEPS
        usual = statistics.median(self._losses) if full else float("inf")
        if loss > SPIKE * usual and trainer.is_global_zero:
            logger.warning(
                "epoch %d, step %d: the loss %.3g is %.1f times the median of the %d steps before it",
                trainer.current_epoch + 1,
                trainer.global_step,
                loss,
                loss / usual,
                SPIKE_STEPS,
            )
        self._losses.append(loss)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the queries of the last training step."""
        self._batches.clear()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write down the queries of a step that was not finite, found here or in the losses."""
        if isinstance(exception, FloatingPointError) and trainer.is_global_zero:
            qids = dict.fromkeys(qid for batch in (*self._batches, pl_module.qids) for qid in batch)
            where = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
            found = where | {"reason": str(exception), "qids": list(qids)}
            write_atomically(self.run.nonfinite_path, json.dumps(found, indent=2) + "\n")
