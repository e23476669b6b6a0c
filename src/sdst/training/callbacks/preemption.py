"""SIGTERM, which Slurm sends before it takes a machine away: the run is saved after the step at hand, and ends."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from sdst.errors import Stopped
from sdst.training.processes import agree
from sdst.training.run_folder import LAST

if TYPE_CHECKING:
    from pathlib import Path

    import lightning as L

logger = logging.getLogger(__name__)


class StopOnSigterm(Callback):
    """Saves the run and ends it when SIGTERM has come.

    In training this happens after the optimizer's step, with several processes after the same step in each. What
    SIGTERM finds in the validation of an epoch ends behind that epoch; the evaluation after training ends at once, as
    it can be repeated from the checkpoint that is there.

    Args:
        run_dir: The run folder; its last checkpoint is written.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._wanted = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the place of Lightning's handler, which would end the run in the midst of a validation."""

        def note(*_: Any) -> None:
            self._wanted = True
            if trainer.state.fn != TrainerFn.FITTING:
                self._stop()

        if self._wanted and trainer.state.fn != TrainerFn.FITTING:  # it came with the last step
            self._stop()

        if threading.current_thread() is threading.main_thread():  # no other may have handlers
            signal.signal(signal.SIGTERM, note)

    on_validation_start = on_train_start  # in case it comes without training

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end, but for the last step of an epoch, whose validation follows.

        Raises:
            Stopped: SIGTERM has come.
        """
        has_stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if (
            has_stepped
            and batch_idx + 1 < trainer.num_training_batches
            and agree(self._wanted, pl_module.device)
        ):
            trainer.save_checkpoint(self.run_dir / LAST)
            self._stop()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End where the epoch before was saved.

        Raises:
            Stopped: SIGTERM has come.
        """
        if trainer.current_epoch and agree(self._wanted, pl_module.device):
            self._stop()

    def _stop(self) -> None:
        logger.warning("stopped by SIGTERM; continue with: sdst train resume=%s", self.run_dir)
        raise Stopped
