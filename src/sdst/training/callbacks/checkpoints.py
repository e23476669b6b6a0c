"""The checkpoints of a run folder: the weights of the best epoch, and the whole state of the last one for resuming."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from sdst.files.atomic import atomic_path
from sdst.training.callbacks.epoch_log import has_validated

if TYPE_CHECKING:
    import lightning as L

    from sdst.training.run_folder import RunFolder


class RunCheckpoint(ModelCheckpoint):
    """Remembers the best epoch even if the run folder was moved, where Lightning would forget it."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless choosing the best needs a validation that this epoch lacks: Lightning would warn of it."""
        if self.monitor is None or has_validated(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore from a checkpoint, looking for its files where the run is now."""
        folder = Path(str(self.dirpath))
        best = {str(folder / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        paths = {
            key: str(folder / Path(state_dict[key]).name) if state_dict[key] else ""
            for key in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": best})


def make_checkpoints(run: RunFolder, monitor: str) -> list[ModelCheckpoint]:
    """Two callbacks: the weights of the epoch with the highest ``monitor``, and the whole state of the last epoch."""
    best = RunCheckpoint(
        run.best.parent,
        run.best.stem,
        monitor,
        mode="max",
        save_weights_only=True,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    last = RunCheckpoint(
        run.last.parent, run.last.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, last]  # in this order: the last checkpoint remembers which epoch was the best


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints atomically. Lightning moves them from another file system, so a kill could tear one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Put the checkpoint in place of the one before.

        Raises:
            UserError: The file cannot be written.
        """
        # Through memory, because PyTorch's own writing hides the error of a full disk.
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, alone=True) as temporary:
            temporary.write_bytes(content.getbuffer())
