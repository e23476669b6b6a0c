"""What the loggers beside the CSV log have in common: they are started with a run, and continued when it is resumed."""

from __future__ import annotations

import socket
from abc import abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from sdst.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint

    from sdst.training.run_folder import RunFolder


class Tracker(Logger):
    """A logger that shows runs with their configuration. No step of a run appears in it twice.

    A killed run has logged steps after its last checkpoint, which the resumed run repeats.
    """

    @abstractmethod
    def start(self, run: RunFolder, values: dict[str, Any]) -> None:
        """Start or continue the tracked run of a run folder.

        Args:
            run: Run folder. The tracked run that was started in it is continued.
            values: Resolved configuration, and as ``run`` the content of run.json.

        Raises:
            UserError: The tracker refuses to start the run.
        """

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Pass on the best checkpoint, for ``log_model``. The last one, which only resuming needs, stays here.

        Lightning gives both the name "best".
        """
        if checkpoint_callback.monitor is not None:
            super().after_save_checkpoint(checkpoint_callback)


def require_packages(logger: str, *packages: str) -> None:
    """Refuse a logger whose packages are not all installed.

    Raises:
        UserError: A package is missing.
    """
    for package in packages:
        if find_spec(package) is None:
            raise UserError(f"logger.{logger}: {package} is not installed; pip install 'sdst[track]'")


def check_log_model(logger: str, value: Any) -> None:
    """Refuse a value of ``log_model`` that Lightning would take for false.

    Raises:
        UserError: It is none of the three values.
    """
    if value not in (True, False, "all"):
        raise UserError(f"logger.{logger}.log_model must be true, false or all, got {value!r}")


def is_reachable(host: str, port: int) -> bool:
    """Whether a server accepts connections."""
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
