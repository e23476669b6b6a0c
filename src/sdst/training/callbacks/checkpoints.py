"""What happens beside the training steps: checkpoints of a run folder, and a line of text per epoch."""

from __future__ import annotations

import io
import json
import logging
import statistics
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from sdst.files.atomic import atomic_path, write_atomically
from sdst.training.run_folder import BEST, LAST

if TYPE_CHECKING:
    import lightning as L
    from torch import Tensor

    from sdst.training.module import GroundingModule
    from sdst.types import Qid

logger = logging.getLogger(__name__)

NONFINITE = "nonfinite.json"
"""The file of a run folder with the queries of the step that stopped it."""
SPIKE, SPIKE_STEPS = 3.0, 50
"""A loss of more than so many times the median of so many steps before it is a spike."""
MOST_OVERFLOWS = 20
"""In a row: a gradient scaler comes from its first scale, 2^16, to 1 in fewer."""


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


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints as all other files; Lightning's move from another file system and could be torn by a kill."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Put the checkpoint in place of the one before.

        Raises:
            UserError: It cannot be written.
        """
        content = (
            io.BytesIO()
        )  # of which a full disk takes bytes or not: PyTorch's own writing would hide its error
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, alone=True) as temporary:
            temporary.write_bytes(content.getbuffer())


class EpochLog(Callback):
    """One line per epoch where there is no terminal for a progress bar, with what the bar would show."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's loss and the metrics of its validation."""
        shown = {key: value for key, value in trainer.progress_bar_metrics.items() if "/" in key}
        text = "  ".join(f"{key} {value:.2f}" for key, value in shown.items())
        if trainer.is_global_zero:
            logger.info("epoch %d/%s  %s", trainer.current_epoch + 1, trainer.max_epochs, text)


class LossWatch(Callback):
    """Stops the run at a loss or gradient that is not finite and names its queries; tells of spikes of the loss.

    In half precision gradients overflow now and then; the scaler then skips the step and halves its scale. Only
    ``MOST_OVERFLOWS`` in a row stop such a run.

    Args:
        run_dir: Receives :data:`NONFINITE`.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._batches: deque[list[Qid]] = deque()  # of the optimizer's step
        self._losses: deque[float] = deque(maxlen=SPIKE_STEPS)
        self._overflows = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """A step begins with its first batch."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._batches.clear()

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Refuse a loss that is not finite.

        Raises:
            FloatingPointError: It is not.
        """
        module: GroundingModule = pl_module
        self._batches.append(module.qids)
        if not loss.isfinite():
            raise FloatingPointError(f"the loss is {loss.item()}")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        """Refuse gradients that are not finite.

        Raises:
            FloatingPointError: They are not, and no scaler will skip the step, or it has skipped too many.
        """
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        if torch.nn.utils.get_total_norm(gradients.values()).isfinite():
            self._overflows = 0
            return
        self._overflows += 1
        if getattr(trainer.precision_plugin, "scaler", None) is None or self._overflows > MOST_OVERFLOWS:
            bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
            raise FloatingPointError(f"the gradient of {bad[0] if bad else 'all together'} is not finite")

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        """Tell of a spike."""
        loss = float(trainer.callback_metrics["train/loss"])
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
        """What follows is no training step."""
        self._batches.clear()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Write down where numbers were not finite, here or in the losses."""
        if isinstance(exception, FloatingPointError) and trainer.is_global_zero:
            qids = dict.fromkeys(qid for batch in (*self._batches, pl_module.qids) for qid in batch)
            where = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
            found = where | {"reason": str(exception), "qids": list(qids)}
            write_atomically(self.run_dir / NONFINITE, json.dumps(found, indent=2) + "\n")


class StepTimer(Callback):
    """How fast training steps are, their loading included, and how long all of the training took.

    Checkpoints keep both, so that a resumed run knows the time of its whole way, but for what was done again.

    Attributes:
        steps: Batches so far, of this process.
        seconds: What they took, validation and checkpoints left out.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self._since = 0.0
        self._before = 0.0  # of fit_seconds, until the checkpoint that the run was resumed from
        self._begun = 0.0

    @property
    def steps_per_second(self) -> float | None:
        """None before the first step."""
        return round(self.steps / self.seconds, 3) if self.steps else None

    @property
    def fit_seconds(self) -> float:
        """From the start of training until now, validation and checkpoints included."""
        return round(self._before + time.monotonic() - self._begun, 1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"steps": self.steps, "seconds": self.seconds, "fit_seconds": self.fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.steps, self.seconds = state_dict["steps"], state_dict["seconds"]
        self._before = state_dict["fit_seconds"]

    def on_fit_start(self, *arguments: Any) -> None:
        """Start the clock of ``fit_seconds``."""
        self._begun = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    on_train_start = on_train_epoch_start  # of an epoch that a resumed run is in the midst of

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Count the time since the step before; what follows an epoch's last step is never counted."""
        now = time.monotonic()
        self.steps += 1
        self.seconds += now - self._since
        self._since = now
