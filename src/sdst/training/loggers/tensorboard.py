"""TensorBoard: event files in the run folder, below the run's name."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from sdst.config.words import leaves
from sdst.training.loggers.tracker import Tracker, require_packages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdst.training.run_folder import RunFolder


class TensorBoardTracker(Tracker, TensorBoardLogger):
    """A TensorBoard logger with one folder for all parts of a run; Lightning would take a new one after resuming."""

    _resumes = False  # until the first step is logged

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics; the first step of a resumed run hides what an earlier part has logged from there on."""
        if self._resumes:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            self._resumes = False
            # What SummaryWriter(purge_step=step) would write, but Lightning makes the writer before it knows the step.
            begun = Event(step=step, session_log=SessionLog(status=SessionLog.START))
            self.experiment._get_file_writer().add_event(begun)
        super().log_metrics(metrics, step)

    def start(self, run: RunFolder, values: dict[str, Any]) -> None:
        """Write the configuration, once in the life of a run."""
        self._resumes = any(Path(self.log_dir).glob("events.*"))
        if self._resumes:
            return
        from torch.utils.tensorboard.summary import hparams

        shown = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in leaves(values)
        }
        self.hparams.update(values)  # which Lightning writes to hparams.yaml
        metric = "{split}/{metric}".format(**values["select"])
        writer = self.experiment._get_file_writer()
        # Lightning's log_hyperparams would log a metric with an invented value. This only names one of the run's.
        for summary in hparams(shown, {metric: 0.0}):  # type: ignore[no-untyped-call]
            writer.add_summary(summary)


def tensorboard_logger(save_dir: str, name: str | None = None) -> TensorBoardLogger:
    """The TensorBoard logger of a run folder.

    Args:
        save_dir: Run folder. Events go to ``tensorboard/NAME`` in it, because TensorBoard shows folders as names.
        name: Name of the run; None for the names of its folder and of the folder above.

    Raises:
        UserError: TensorBoard is not installed.
    """
    require_packages("tensorboard", "tensorboard")
    folder = Path(save_dir).absolute()
    parts = PurePosixPath(name or f"{folder.parent.name}/{folder.name}").parts
    below = "/".join(part for part in parts if part not in ("/", ".."))
    return TensorBoardTracker(save_dir, name="tensorboard", version=below)
