"""SIGTERM, which Slurm sends before it takes a machine away: the run is saved after the current step and stops."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from sdst.errors import Stopped

if TYPE_CHECKING:
    import lightning as L

    from sdst.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class StopOnSigterm(Callback):
    """Saves and stops the run after SIGTERM.

    During training this happens after the optimizer's step, with several processes after the same step in each. If
    SIGTERM comes during the validation of an epoch, the run stops after that epoch. The evaluation after training
    stops at once, because it can be repeated from the checkpoint.

    Args:
        run: Run folder whose last checkpoint is written.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._wanted = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handler, which would stop the run in the middle of a validation."""

        def note(*_: Any) -> None:
            self._wanted = True
            if trainer.state.fn != TrainerFn.FITTING:
                self._stop()

        if self._wanted and trainer.state.fn != TrainerFn.FITTING:  # the signal came with the last step
            self._stop()

        if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
            signal.signal(signal.SIGTERM, note)

    on_validation_start = on_train_start  # an evaluation may run without training before it

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, unless this is the epoch's last step: then validation runs first.

        Raises:
            Stopped: SIGTERM has come.
        """
        has_stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if has_stepped and batch_idx + 1 < trainer.num_training_batches and self._is_wanted_anywhere(trainer):
            trainer.save_checkpoint(self.run.last)
            self._stop()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after an epoch, whose end was saved.

        Raises:
            Stopped: SIGTERM has come.
        """
        if trainer.current_epoch and self._is_wanted_anywhere(trainer):
            self._stop()

    def _is_wanted_anywhere(self, trainer: L.Trainer) -> bool:
        """Whether SIGTERM came to any of the processes; the answer is the same in all."""
        return trainer.strategy.reduce_boolean_decision(self._wanted, all=False)

    def _stop(self) -> None:
        logger.warning("stopped by SIGTERM; continue with: sdst train resume=%s", self.run.path)
        raise Stopped
