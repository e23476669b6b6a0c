"""Weights & Biases: what a run shows there, offline by itself where its server cannot be reached."""

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

from lightning.pytorch.loggers import WandbLogger

from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.metrics.moment import top1_iou
from sdst.plotting.predictions import SHOWN_MOMENTS, plot_predictions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning.pytorch.loggers import Logger

    from sdst.types import Prediction, Record

logger = logging.getLogger(__name__)

RUN_ID = "wandb-run-id"
"""The file of a run folder with the id of its wandb run, which a resumed run continues."""
SHOWN_QUERIES = 6
"""How many queries a run shows as plots and in its table."""
TABLE = ("qid", "video", "query", "true moments [s]", "best predictions [s] (score)", "IoU of the best")


def wandb_logger(save_dir: str, project: str, group: str | None, tags: Sequence[str]) -> WandbLogger:
    """The logger of the wandb run that belongs to a run folder.

    ``WANDB_MODE`` is obeyed; without it, the run is offline where there is no API key or no network.

    Args:
        save_dir: The run folder. A wandb run that was begun in it is continued.
        project: Where the run is filed.
        group: What it is a row of, such as a table's name.
        tags: Words to find it by.

    Raises:
        UserError: wandb or matplotlib is not installed.
    """
    for package in ("wandb", "matplotlib"):
        if find_spec(package) is None:
            raise UserError(f"logger=wandb: {package} is not installed; pip install 'sdst[wandb]'")
    chosen = os.environ.get("WANDB_MODE")
    offline = chosen in ("offline", "dryrun") if chosen else not _usable()
    begun = Path(save_dir, RUN_ID)
    folder = Path(save_dir).absolute()
    return WandbLogger(
        id=begun.read_text(encoding="utf-8").strip() if begun.is_file() else secrets.token_hex(4),
        name=f"{folder.parent.name}/{folder.name}",  # the jobs of a multirun are folders 0, 1, ...
        save_dir=save_dir,
        project=project,
        group=group,
        tags=list(tags),
        # Not WandbLogger's own offline=True: that sets WANDB_MODE for all later runs of the process.
        mode="offline" if offline else None,
    )


@contextmanager
def tracked_run() -> Iterator[None]:
    """End the process's wandb run with the block, as failed after an error: or the next one would continue it."""
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
    run_logger: Logger | None, run_dir: Path, config: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Start the wandb run of a run folder, if it is logged there, or continue it.

    Args:
        run_logger: Of the trainer.
        run_dir: The run folder; receives the wandb run's id.
        config: The resolved configuration.
        facts: What run.json says: commit, versions, machine, parameters, features.

    Raises:
        UserError: wandb refuses to start the run.
    """
    if not isinstance(run_logger, WandbLogger):
        return
    import wandb

    try:
        run = run_logger.experiment
    except wandb.Error as error:
        raise UserError(f"logger=wandb: {error}; WANDB_MODE=offline goes on without its server") from error
    write_atomically(run_dir / RUN_ID, f"{run.id}\n")
    run_logger.log_hyperparams({**config, "run": facts})


def show_predictions(
    run_logger: Logger | None,
    split: str,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    clip_seconds: float,
    note: str = "",
) -> None:
    """Show some queries of a labelled split in the wandb run, if there is one: a plot each, and a table.

    Args:
        run_logger: Of the trainer.
        split: Its name.
        predictions: Of the whole split, in any order.
        records: Its annotations; the shown ones are spread evenly over them.
        clip_seconds: Length of a clip.
        note: A line above each plot.
    """
    if not isinstance(run_logger, WandbLogger):
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
        run_logger.experiment.log({f"{split}/plots": plots, f"{split}/predictions": table})


def _row(prediction: Prediction, record: Record) -> list[str | float]:
    assert record.windows is not None
    true = ", ".join(f"{start:g}-{end:g}" for start, end in record.windows.tolist())
    best = prediction.windows[:SHOWN_MOMENTS].tolist()
    predicted = ", ".join(f"{start:.1f}-{end:.1f} ({score:.2f})" for start, end, score in best)
    iou = float(top1_iou([prediction.windows], [record.windows])[0])
    return [str(record.qid), record.vid, record.query, true, predicted, round(iou, 3)]


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
