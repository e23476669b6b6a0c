"""Progress of training: a bar on a terminal, elsewhere a line of text per epoch. Both count epochs from 1."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lightning.pytorch.callbacks import Callback, RichProgressBar

if TYPE_CHECKING:
    import lightning as L

logger = logging.getLogger(__name__)


class EpochBar(RichProgressBar):
    """Lightning's progress bar, which would show the first of 2 epochs as 0/1 and not as 1/2."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return text.ljust(len(self.validation_description))  # bars of unequal width flicker


class EpochLog(Callback):
    """Logs one line per epoch with the values that the progress bar would show."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's loss, and metrics if it had a validation; else Lightning still has earlier ones."""
        prefix = "" if has_validated(trainer) else "train/"
        values = trainer.progress_bar_metrics.items()
        shown = {key: value for key, value in values if "/" in key and key.startswith(prefix)}
        text = "  ".join(f"{key} {value:.2f}" for key, value in shown.items())
        if trainer.is_global_zero:
            logger.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, text)


def has_validated(trainer: L.Trainer) -> bool:
    """Whether the epoch that ends now had a validation."""
    every = trainer.check_val_every_n_epoch
    return every is None or (trainer.current_epoch + 1) % every == 0
