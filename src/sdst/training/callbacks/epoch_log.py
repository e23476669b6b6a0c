"""A line of text per epoch, where there is no terminal for a progress bar."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    import lightning as L

logger = logging.getLogger(__name__)


class EpochLog(Callback):
    """Logs one line per epoch with the values that the progress bar would show."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's loss and the metrics of its validation."""
        shown = {key: value for key, value in trainer.progress_bar_metrics.items() if "/" in key}
        text = "  ".join(f"{key} {value:.2f}" for key, value in shown.items())
        if trainer.is_global_zero:
            logger.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, text)
