"""Signals after which a run is saved and stops: Ctrl-C, and SIGTERM, which Slurm sends before it takes a machine."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from sdst.errors import Stopped
from sdst.training.processes import SIGNALS

if TYPE_CHECKING:
    import lightning as L

    from sdst.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


class StopOnSignal(Callback):
    """Saves and stops the run after SIGTERM or Ctrl-C; a second Ctrl-C stops it at once.

    During training this happens after the optimizer's step, with several processes after the same step in each. If
    the signal comes during the validation of an epoch, the run stops after that epoch. The evaluation after training
    stops at once, because it can be repeated from the checkpoint.

    Args:
        run: Run folder whose last checkpoint is written.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._came = 0  # number of the signal

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handlers, which would stop the run in the middle of a validation."""

        def note(number: int, _: Any) -> None:
            again = number == signal.SIGINT and bool(self._came)
            self._came = number
            if again or trainer.state.fn != TrainerFn.FITTING:
                self._stop(number)
            if number == signal.SIGINT and trainer.is_global_zero:
                logger.warning("stopping after this step; Ctrl-C again stops at once, without saving")

        if self._came and trainer.state.fn != TrainerFn.FITTING:  # the signal came with the last step
            self._stop(self._came)

        if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
            for number in SIGNALS:
                signal.signal(number, note)

    on_validation_start = on_train_start  # an evaluation may run without training before it

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, unless this is the epoch's last step: then validation runs first.

        Raises:
            Stopped: A signal has come.
        """
        has_stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if (
            has_stepped
            and batch_idx + 1 < trainer.num_training_batches
            and (came := self._came_anywhere(trainer))
        ):
            trainer.save_checkpoint(self.run.last)
            self._stop(came)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between two epochs; the one before was saved at its end.

        Raises:
            Stopped: A signal has come.
        """
        if trainer.current_epoch and (came := self._came_anywhere(trainer)):
            self._stop(came)

    def _came_anywhere(self, trainer: L.Trainer) -> int:
        """The signal that came to any of the processes, or 0; the answer is the same in all."""
        for number in SIGNALS:
            if trainer.strategy.reduce_boolean_decision(self._came == number, all=False):
                return number
        return 0

    def _stop(self, number: int) -> None:
        name = signal.Signals(number).name
        logger.warning("stopped by %s; continue with: sdst train resume=%s", name, self.run.path)
        raise Stopped(number)
