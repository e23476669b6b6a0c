"""How fast training steps are, and how long the training took."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

if TYPE_CHECKING:
    import lightning as L


class StepTimer(Callback):
    """Times the training steps, loading included, and the training as a whole.

    Checkpoints keep both times, so a resumed run counts all its parts; steps that were lost and repeated count once.

    Attributes:
        steps: Batches of this process so far, with those of the parts before a resumption.
        seconds: Time that they took, without validation and checkpoints.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = 0.0
        self._since = 0.0
        self._before = 0.0  # fit_seconds at the checkpoint that the run was resumed from
        self._begun = 0.0

    @property
    def steps_per_second(self) -> float | None:
        """Batches per second; None before the first step."""
        return round(self.steps / self.seconds, 3) if self.steps else None

    @property
    def fit_seconds(self) -> float:
        """Seconds from the start of training until now, validation and checkpoints included."""
        return round(self._before + time.monotonic() - self._begun, 1)

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a checkpoint."""
        return {"steps": self.steps, "seconds": self.seconds, "fit_seconds": self.fit_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the counts of a checkpoint."""
        self.steps, self.seconds = state_dict["steps"], state_dict["seconds"]
        self._before = state_dict["fit_seconds"]

    def on_fit_start(self, *arguments: Any) -> None:
        """Start the clock of ``fit_seconds``."""
        self._begun = time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the epoch's first step."""
        self._since = time.monotonic()

    on_train_start = on_train_epoch_start  # a run resumed within an epoch starts no epoch

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Count the time since the step before; the time after an epoch's last step is never counted."""
        now = time.monotonic()
        self.steps += 1
        self.seconds += now - self._since
        self._since = now
