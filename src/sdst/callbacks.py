"""What happens beside the training steps: checkpoints of a run folder, and a line of text per epoch."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback, ModelCheckpoint

if TYPE_CHECKING:
    import lightning as L

logger = logging.getLogger(__name__)

LAST = Path("checkpoints/last.ckpt")
BEST = Path("checkpoints/best.ckpt")


class RunCheckpoint(ModelCheckpoint):
    """Remembers the best epoch even if the run folder was moved, where Lightning would forget it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore from a checkpoint, looking for its files where the run is now."""
        folder = Path(str(self.dirpath))
        best = {str(folder / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        paths = {
            key: str(folder / Path(state_dict[key]).name) if state_dict[key] else ""
            for key in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": best})


def checkpoints(run_dir: Path, monitor: str) -> list[ModelCheckpoint]:
    """The weights of the epoch with the highest ``monitor``, and everything that resuming needs of the last one."""
    best = RunCheckpoint(
        run_dir / BEST.parent,
        BEST.stem,
        monitor,
        mode="max",
        save_weights_only=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = RunCheckpoint(
        run_dir / LAST.parent, LAST.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]  # in this order: the last checkpoint remembers which epoch was the best


class EpochLog(Callback):
    """One line per epoch where there is no terminal for a progress bar, with what the bar would show."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's loss and the metrics of its validation."""
        shown = {key: value for key, value in trainer.progress_bar_metrics.items() if "/" in key}
        text = "  ".join(f"{key} {value:.2f}" for key, value in shown.items())
        if trainer.is_global_zero:
            logger.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, text)


class StepTimer(Callback):
    """How fast training steps are, their loading included, validation and checkpoints left out.

    Attributes:
        steps: Batches so far, of this process.
        seconds: What they took.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self._since = 0.0

    @property
    def steps_per_second(self) -> float | None:
        """None before the first step."""
        return round(self.steps / self.seconds, 3) if self.steps else None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Count the time since the step before; what follows an epoch's last step is never counted."""
        now = time.monotonic()
        self.steps += 1
        self.seconds += now - self._since
        self._since = now
