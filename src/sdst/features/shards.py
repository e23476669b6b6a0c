"""``sdst extract --processes N``: one extraction by several processes, each on a GPU of its own if there are several.

Every process extracts one shard into a file and a log of its own. When all have ended, their files become one, and
their lists of failed videos and of other lengths too. A shard that is already complete is not made again, so repeating
a command that was killed continues where it stopped.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING

from sdst.errors import UserError
from sdst.features.merge import merge
from sdst.files.atomic import write_atomically
from sdst.files.orphans import begin_worker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.process import BaseProcess
    from pathlib import Path

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
LISTS = (".failed.jsonl", ".lengths.jsonl")
"""Endings of the lists that an extraction writes beside its feature file."""


def shard_path(out: Path, index: int, count: int) -> Path:
    """Path of shard ``index`` of ``count`` of a feature file."""
    return out.with_name(f"{out.stem}.shard-{index}-of-{count}{out.suffix}")


def extract_in_processes(
    argv: Sequence[str], out: Path, count: int, devices: Sequence[str | None]
) -> list[int]:
    """Run one extraction per shard, and return their exit statuses.

    Args:
        argv: Arguments of ``sdst extract`` without ``--processes``.
        out: Feature file that the shards belong to.
        count: Number of shards and processes.
        devices: Devices, which the processes take in turns; None for the default.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[int, BaseProcess] = {}
    statuses = [0] * count
    for index in range(count):
        path = shard_path(out, index, count)
        if path.exists():
            continue
        device = devices[index % len(devices)]
        arguments = [*argv, "--shard", f"{index}/{count}", *(["--device", device] if device else [])]
        log = path.with_suffix(".log")
        running[index] = context.Process(target=_extract_shard, args=(arguments, log, count))
        running[index].start()
        logger.info("shard %d of %d%s: log %s", index, count, f" on {device}" if device else "", log)
    shown: dict[int, str] = {}
    while running:
        for index, process in list(running.items()):
            process.join(POLL_SECONDS / len(running))
            line = _last_line(shard_path(out, index, count).with_suffix(".log"))
            if line and line != shown.get(index):
                logger.info("shard %d: %s", index, line)
                shown[index] = line
            if process.exitcode is not None:
                statuses[index] = process.exitcode
                del running[index]
    return statuses


def join(out: Path, count: int) -> None:
    """Join the shards' files and lists, and remove them with their logs."""
    shards = [shard_path(out, index, count) for index in range(count)]
    for ending in LISTS:
        lists = [path.with_suffix(ending) for path in shards]
        rows = "".join(path.read_text(encoding="utf-8") for path in lists if path.exists())
        if rows:
            write_atomically(out.with_suffix(ending), rows)
        else:
            out.with_suffix(ending).unlink(missing_ok=True)  # left by an earlier run
    # After the lists, because a repeated command refuses a finished file and would not write them.
    if written := [path for path in shards if path.exists()]:  # a shard whose videos all failed has no file
        merge(written, out, all_shards=False)
    for path in shards:
        for ending in (path.suffix, ".log", *LISTS):
            path.with_suffix(ending).unlink(missing_ok=True)


def _extract_shard(arguments: Sequence[str], log: Path, count: int) -> None:
    """Run ``sdst extract`` in one of ``count`` child processes, which writes to its log instead of the terminal."""
    begin_worker()
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    from sdst.cli import main  # imported here because it imports this package's commands
    from sdst.features.threads import at_most_threads, usable_cores  # and this because it imports torch

    with at_most_threads(usable_cores() // count):
        status = main(["extract", *arguments])
    sys.exit(status)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def require_finished(out: Path, statuses: Sequence[int], allowed: Sequence[int]) -> None:
    """Refuse to go on if a shard ended with another status than those ``allowed``.

    Raises:
        UserError: The first such shard, with the last line of its log.
    """
    for index, status in enumerate(statuses):
        if status not in allowed:
            log = shard_path(out, index, len(statuses)).with_suffix(".log")
            reason = _last_line(log).removeprefix("sdst: error: ") or f"ended with status {status}"
            raise UserError(
                f"shard {index} of {len(statuses)} failed: {reason}; see {log}, repair it and repeat the command"
            )
