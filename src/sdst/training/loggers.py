"""The loggers of a run, and what it shows on Weights & Biases, offline if the server cannot be reached."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import shlex
import socket
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hydra.errors import InstantiationException
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from sdst.config.build import build
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.metrics.moment import top1_iou
from sdst.plotting.predictions import SHOWN_MOMENTS, plot_predictions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lightning.pytorch.loggers import Logger
    from omegaconf import DictConfig

    from sdst.training.run_folder import RunFolder
    from sdst.types import Prediction, Record

logger = logging.getLogger(__name__)

RUN_ID = "wandb-run-id"
"""The file of a run folder with the id of its wandb run, which a resumed run continues."""
SHOWN_QUERIES = 6
"""Number of queries that a run shows as plots and in its table."""
TABLE = ("qid", "video", "query", "true moments [s]", "best predictions [s] (score)", "IoU of the best")


def make_loggers(configs: DictConfig, run: RunFolder) -> list[Logger]:
    """The loggers of a configuration, and always the CSV log, whose curves ``sdst show`` draws.

    Args:
        configs: Name -> constructor of a logger.
        run: Run folder that the loggers write into.

    Raises:
        UserError: A node is not a logger's constructor, or its package is not installed.
    """
    loggers: list[Logger] = []
    for name, node in ((str(key), configs[key]) for key in configs):
        if not OmegaConf.is_dict(node):
            raise UserError(f"logger.{name}: must be a mapping with a _target_, got {node!r}")
        if "save_dir" in node:
            raise UserError(f"logger.{name}.save_dir: a run logs into its own folder; remove the option")
        try:
            loggers.append(build(node, save_dir=str(run.path)))
        except InstantiationException as error:
            if not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            reason = " ".join(str(error.__cause__).split())
            raise UserError(
                f"logger.{name}: a package is missing ({reason}); install it or choose another logger"
            ) from error
    if not any(isinstance(made, CSVLogger) and made.name == run.csv_path.name for made in loggers):
        loggers.insert(0, CSVLogger(str(run.path), name=run.csv_path.name))
    return loggers


class StepLogger(WandbLogger):
    """A wandb logger whose steps are those of training.

    wandb would count the calls instead, from 0 again in each part of a resumed run, and its server drops steps that it
    has already seen under the run's id.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics as values of a training step."""
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step)


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
    for package in ("wandb", "matplotlib"):
        if find_spec(package) is None:
            raise UserError(f"logger.wandb: {package} is not installed; pip install 'sdst[track]'")
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
    return StepLogger(
        save_dir=save_dir, project=project, group=group, tags=list(tags), **(defaults | options)
    )


@contextmanager
def tracked_run() -> Iterator[None]:
    """End the process's wandb run with the block, as failed after an error; the next run would continue it."""
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


def start_wandb_run(
    loggers: Sequence[Logger], run_dir: Path, config: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Start or continue the wandb run of a run folder, if one of the loggers is wandb's.

    Args:
        loggers: Loggers of the trainer.
        run_dir: Run folder that receives the wandb run's id.
        config: The resolved configuration.
        facts: Content of run.json: commit, versions, machine, parameters, features.

    Raises:
        UserError: wandb refuses to start the run.
    """
    for wandb_logger in _wandb_loggers(loggers):
        import wandb

        try:
            started = wandb_logger.experiment
        except (wandb.Error, TypeError) as error:
            raise UserError(
                f"logger.wandb: {error}; check its options, or set WANDB_MODE=offline to train without the server"
            ) from error
        write_atomically(run_dir / RUN_ID, f"{started.id}\n")
        wandb_logger.log_hyperparams({**config, "run": facts})


def show_predictions(
    loggers: Sequence[Logger],
    split: str,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    clip_seconds: float,
    note: str = "",
) -> None:
    """Show some queries of a labelled split in the wandb run, if there is one: a plot each, and a table.

    Args:
        loggers: Loggers of the trainer.
        split: Name of the split.
        predictions: Predictions of the whole split, in any order.
        records: Annotations of the split; the shown queries are spread evenly over them.
        clip_seconds: Length of a clip.
        note: Line above each plot.
    """
    shown_in = _wandb_loggers(loggers)
    if not shown_in:
        return
    import wandb

    by_qid = {prediction.qid: prediction for prediction in predictions}
    shown = [records[index * len(records) // SHOWN_QUERIES] for index in range(SHOWN_QUERIES)]
    shown = list(dict.fromkeys(shown))  # a split may have fewer queries
    with tempfile.TemporaryDirectory() as folder:
        plots = []
        for index, record in enumerate(shown):
            path = Path(folder, f"{index}.png")
            plot_predictions([by_qid[record.qid]], [record], path, clip_seconds, note)
            plots.append(wandb.Image(str(path), caption=f"{record.qid}: {record.query}"))
        table = wandb.Table(columns=list(TABLE), data=[_row(by_qid[record.qid], record) for record in shown])
        # Within the block: wandb copies the pictures when they are logged.
        for wandb_logger in shown_in:
            run = wandb_logger.experiment
            run.log({f"{split}/plots": plots, f"{split}/predictions": table}, step=run.step)


def _wandb_loggers(loggers: Sequence[Logger]) -> list[WandbLogger]:
    return [run_logger for run_logger in loggers if isinstance(run_logger, WandbLogger)]


def _row(prediction: Prediction, record: Record) -> list[str | float | None]:
    moments = [] if record.windows is None else record.windows.tolist()
    true = ", ".join(f"{start:g}-{end:g}" for start, end in moments)
    best = prediction.windows[:SHOWN_MOMENTS].tolist()
    predicted = ", ".join(f"{start:.1f}-{end:.1f} ({score:.2f})" for start, end, score in best)
    iou = None
    if record.windows is not None:
        iou = round(float(top1_iou([prediction.windows], [record.windows])[0]), 3)
    return [str(record.qid), record.vid, record.query, true, predicted, iou]


def _usable() -> bool:
    """Whether there is an API key, and the server answers."""
    import wandb

    url = urlsplit(wandb.setup().settings.base_url)
    port = url.port or {"http": 80}.get(url.scheme, 443)
    return _has_key(url.netloc) and _reachable(url.hostname or "", port)


def _has_key(host: str) -> bool:
    """Whether ``wandb login`` or the environment left an API key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
