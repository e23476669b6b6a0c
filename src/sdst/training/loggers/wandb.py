"""Weights & Biases: the tracked run of a run folder, offline if the server cannot be reached."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.training.curves import read_rows
from sdst.training.loggers.tracker import Tracker, check_log_model, is_reachable, require_packages
from sdst.training.loggers.wandb_file import last_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sdst.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

RUN_ID = "wandb-run-id"
"""The file of a run folder with the id of its wandb run, which a resumed run continues."""


class WandbTracker(Tracker, WandbLogger):
    """A wandb logger whose steps are those of training, each logged once.

    wandb would count the calls instead, from 0 again in each part of a resumed run.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._logged: dict[str, int] = {}  # key -> last step in the files of the run's earlier parts
        self._resumes: RunFolder | None = None  # until the first step is logged

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics as values of a training step, without those that an earlier part of the run has logged."""
        if step is None:  # in a script; the trainer always gives it
            self.experiment.log(dict(metrics))
            return
        if self._resumes is not None:
            # wandb writes in blocks, so the file of a killed run lacks its last steps; the CSV log has them.
            rows, self._resumes = read_rows(self._resumes.path), None
            before: dict[int, dict[str, float]] = {}
            for row_step, row in rows:
                if row_step < step:
                    before.setdefault(row_step, {}).update(row)
            for row_step in sorted(before):
                self._log(before[row_step], row_step)
        self._log(metrics, step)

    def log_shown(self, values: Mapping[str, Any]) -> None:
        """Log plots and tables as values of the last step."""
        self._log(values, max([self.experiment.step, *self._logged.values()]))

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        new = {key: value for key, value in values.items() if step > self._logged.get(key, -1)}
        # The server tells a continued run where it starts; wandb would warn of each step before.
        if new and step >= self.experiment.starting_step:
            self.experiment.log({**new, "trainer/global_step": step}, step=step)

    def start(self, run: RunFolder, values: dict[str, Any]) -> None:
        """Start or continue the wandb run of a run folder."""
        import wandb

        if (run.path / RUN_ID).is_file():
            self._resumes, self._logged = run, last_steps(run.path / "wandb")
        try:
            started = self.experiment
        except (wandb.Error, TypeError) as error:
            raise UserError(
                f"logger.wandb: {error}; check its options, or set WANDB_MODE=offline to train without the server"
            ) from error
        write_atomically(run.path / RUN_ID, f"{started.id}\n")
        self.log_hyperparams(values)


def wandb_logger(
    save_dir: str,
    project: str,
    group: str | None,
    tags: Sequence[str],
    name: str | None = None,
    **options: Any,
) -> WandbLogger:
    """The logger of the wandb run that belongs to a run folder.

    ``WANDB_MODE`` decides whether the run is offline; without it, the run is offline if there is no API key or no
    network.

    Args:
        save_dir: Run folder. A wandb run that was begun in it is continued.
        project: wandb project.
        group: Group within the project, such as a table's name.
        tags: Words to find the run by.
        name: Name of the run; None for the names of its folder and of the folder above.
        options: Further arguments of ``WandbLogger`` and ``wandb.init``: entity, notes, log_model.

    Raises:
        UserError: wandb or matplotlib is not installed, or an option is refused.
    """
    require_packages("wandb", "wandb", "matplotlib")
    check_log_model("wandb", options.get("log_model", False))
    if "offline" in options:  # WandbLogger would set WANDB_MODE for all later runs of the process
        raise UserError(
            "logger.wandb.offline: not supported; use logger.wandb.mode=offline or WANDB_MODE=offline"
        )
    chosen = os.environ.get("WANDB_MODE")
    offline = chosen in ("offline", "dryrun") if chosen else not _usable()
    begun = Path(save_dir, RUN_ID)
    folder = Path(save_dir).absolute()
    defaults = {
        "id": begun.read_text(encoding="utf-8").strip() if begun.is_file() else secrets.token_hex(4),
        "name": name or f"{folder.parent.name}/{folder.name}",
        "mode": "offline" if offline else None,
    }
    return WandbTracker(
        save_dir=save_dir, project=project, group=group, tags=list(tags), **(defaults | options)
    )


@contextmanager
def tracked_run() -> Iterator[None]:
    """End the process's wandb run with the block, as failed after an error; else the next run would continue it."""
    failed = True
    try:
        yield
        failed = False
    finally:
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            # RUN/wandb/offline-run-DATE_TIME-ID/files; a resumed run has several of them, which belong together.
            folder = Path(wandb.run.dir).parents[1] if wandb.run.offline else None
            wandb.finish(exit_code=int(failed))
            if folder is not None:
                logger.info(
                    "wandb: offline; upload with: wandb sync %s/offline-run-*", shlex.quote(str(folder))
                )


def _usable() -> bool:
    """Whether there is an API key, and the server answers."""
    import wandb

    url = urlsplit(wandb.setup().settings.base_url)
    port = url.port or {"http": 80}.get(url.scheme, 443)
    return _has_key(url.netloc) and is_reachable(url.hostname or "", port)


def _has_key(host: str) -> bool:
    """Whether ``wandb login`` or the environment left an API key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
