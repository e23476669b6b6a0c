"""Weights & Biases, offline by itself where it cannot reach its server."""

from __future__ import annotations

import logging
import netrc
import os
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning.pytorch.loggers import WandbLogger

logger = logging.getLogger(__name__)


def wandb_logger(save_dir: str, project: str, group: str | None, tags: Sequence[str]) -> WandbLogger:
    """A wandb run named after its folder.

    ``WANDB_MODE`` is obeyed; without it, the run is offline where there is no API key or no network.

    Raises:
        UserError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError("logger=wandb: wandb is not installed; pip install 'sdst[wandb]'") from None
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "") in ("offline", "dryrun")
    if "WANDB_MODE" not in os.environ:
        host = urlparse(wandb.Settings().base_url).hostname or ""
        offline = not (_has_key(host) and _reachable(host))
    if offline:
        logger.info("wandb: offline; afterwards run: wandb sync %s/wandb/offline-run-*", save_dir)
    return WandbLogger(
        name=os.path.basename(save_dir),
        save_dir=save_dir,
        project=project,
        group=group,
        tags=list(tags),
        offline=offline,
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
            wandb.finish(exit_code=int(failed))


def _has_key(host: str) -> bool:
    """Whether ``wandb login`` or the environment left an API key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(host: str) -> bool:
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        return False
    return True
