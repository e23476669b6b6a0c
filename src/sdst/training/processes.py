"""Several processes that train as one: how they start and end, and how a step of theirs is that of a single process.

Each has a share of the step's queries. Before the losses are computed, the outputs of all are brought together, so
that the normalisers, the negatives of the contrastive losses and with them the gradient are those of the whole batch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from dataclasses import fields, replace
from datetime import timedelta
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.nn import functional as F

from sdst.config.checks import num_processes
from sdst.console.terminal import log_to_stderr
from sdst.errors import STOPPED, Stopped, UserError
from sdst.types import Anchors, Batch, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig
    from torch import Tensor

    from sdst.types import Record

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others within a step or an evaluation before it gives up."""


# --- start and end ---


def is_started() -> bool:
    """Whether this process is one of several, started here or by torchrun."""
    return "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the one that writes; a single process is."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def make_strategy(trainer: DictConfig, *, unused_parameters: bool) -> DDPStrategy | str:
    """How Lightning lets the processes work together; ``auto`` where there is one.

    Args:
        trainer: Its configuration.
        unused_parameters: Some parameters get no gradient, such as a head whose loss is off.
    """
    if num_processes(trainer) == 1:
        return "auto"
    return DDPStrategy(timeout=TIMEOUT, find_unused_parameters=unused_parameters)


def make_environment() -> LightningEnvironment | TorchElasticEnvironment:
    """What tells Lightning which of the processes this one is: we do, or torchrun does.

    Within a job of Slurm it would otherwise ask Slurm, and take over its signals.
    """
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def run_processes(world: int, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in several new processes and wait until all are done, or one is dead: then all are ended.

    SIGTERM is passed on to them.

    Args:
        world: How many.
        function: Of a module; every process calls it with the arguments.
        arguments: Whatever can be pickled.

    Raises:
        UserError: What one of them raised; or one ended without a word, as if killed.
        Stopped: SIGTERM has come here or to one of them.
    """
    context = torch.multiprocessing.get_context("spawn")
    told, port = context.SimpleQueue(), find_free_network_port()
    processes = [
        context.Process(target=_run_rank, args=(rank, world, port, told, function, arguments))
        for rank in range(world)
    ]
    left, dead, stopped = dict(enumerate(processes)), list[tuple[int, int]](), False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        for process in processes:
            if process.is_alive():
                process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        for process in processes:
            process.start()
        while left and not dead:
            ended = connection.wait([process.sentinel for process in left.values()])
            for rank in [rank for rank, process in left.items() if process.sentinel in ended]:
                process = left.pop(rank)
                process.join()
                if process.exitcode == STOPPED and not stopped:
                    stop()  # one alone was told
                elif process.exitcode not in (0, STOPPED):
                    dead.append((rank, process.exitcode or 0))
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in left.values():
            if process.is_alive():
                process.kill()  # it may be waiting for the dead one; whatever it writes is whole or absent
                process.join()
    if stopped:
        raise Stopped
    while not told.empty():
        is_refusal, message = told.get()
        if is_refusal:
            raise UserError(message)
        if all(code > 0 for _, code in dead):  # else it only missed the one that was killed
            sys.stderr.write(message)
    if dead:
        rank, code = min(dead, key=lambda death: death[1])
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        raise UserError(
            f"trainer.devices: process {rank + 1} of {world} ended with {how}, so the others were ended too; "
            "what it did until its last checkpoint can be continued with resume"
        )


def _run_rank(
    rank: int, world: int, port: int, told: Any, function: Callable[..., object], arguments: Sequence[Any]
) -> None:
    """One of the processes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(max(1, torch.get_num_threads() // world))
    log_to_stderr(logging.INFO if rank == 0 else logging.ERROR)
    if rank:
        warnings.simplefilter("ignore")  # the first process warns for all
    try:
        function(*arguments)
    except UserError as error:
        told.put((True, str(error)))
        sys.exit(2)
    except Exception:
        told.put(
            (False, traceback.format_exc())
        )  # not printed here: it may follow from what another was refused
        sys.exit(1)


def _end_with_parent() -> None:
    """A process whose parent was killed would go on, or wait for the others forever."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


# --- a step ---


def world_size() -> int:
    """How many processes take this step together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def agree(wanted: bool, device: torch.device) -> bool:
    """Whether any of the processes wants something; all of them get the same answer."""
    if world_size() == 1:
        return wanted
    votes = torch.tensor(int(wanted), device=device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes)


def pad_alike(batch: Batch) -> Batch:
    """This process's share of a step, padded to the longest video, query and moments of all shares."""
    if world_size() == 1:
        return batch
    lengths = torch.tensor(
        [batch.video.shape[2], batch.text.shape[2], batch.moments.shape[1]], device=batch.video.device
    )
    dist.all_reduce(lengths, dist.ReduceOp.MAX)
    clips, tokens, moments = lengths.tolist()
    return replace(
        batch,
        video=_pad(batch.video, 2, clips),
        video_mask=_pad(batch.video_mask, 1, clips),
        saliency=_pad(batch.saliency, 1, clips),
        text=_pad(batch.text, 2, tokens),
        text_mask=_pad(batch.text_mask, 1, tokens),
        moments=_pad(batch.moments, 1, moments),
        moment_mask=_pad(batch.moment_mask, 1, moments),
    )


def gather(output: Output, batch: Batch) -> tuple[Output, Batch]:
    """The whole step from this process's share of it, each query once.

    Gradients flow into this process's own outputs alone. As the processes' gradients are averaged, the loss has to be
    multiplied by their number.

    Args:
        output: Of the share.
        batch: The share, from ``pad_alike``.

    Returns:
        Outputs and batch of all processes, in the order of their ranks, without features.
    """
    if world_size() == 1:
        return output, batch
    shares: list[Any] = [None] * world_size()
    dist.all_gather_object(shares, batch.records)
    records: list[Record] = [record for share in shares for record in share]
    sizes = [len(share) for share in shares]
    rows = {record.qid: row for row, record in reversed(list(enumerate(records)))}
    # A query that fills up the last step of an epoch is there twice; the first one counts.
    kept = sorted(rows.values())

    def whole(values: Tensor) -> Tensor:
        return _all_rows(values, sizes)[kept]

    def whole_fields(values: Output | Batch, but: Sequence[str]) -> dict[str, Any]:
        found = {f.name: getattr(values, f.name) for f in fields(values) if f.name not in but}
        return {name: whole(value) for name, value in found.items() if isinstance(value, torch.Tensor)}

    anchors = output.anchors and Anchors(
        output.anchors.position, output.anchors.stride, output.anchors.reach, whole(output.anchors.mask)
    )
    kept_records = [records[row] for row in kept]
    videos: dict[str, int] = {}
    video_index = [videos.setdefault(record.vid, len(videos)) for record in kept_records]
    return (
        replace(output, **whole_fields(output, ()), anchors=anchors),
        replace(
            batch,
            **whole_fields(batch, ("video", "text", "video_index")),
            records=kept_records,
            video_index=torch.tensor(video_index, device=batch.video_index.device),
        ),
    )


def _all_rows(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """(sum of sizes, ...) the rows of all processes; this one's keep their gradient."""
    rank = dist.get_rank()
    sent = values.detach()
    if values.dtype == torch.bool:  # not every backend sends those
        sent = sent.byte()
    sent = _pad(sent, 0, max(sizes)).contiguous()
    parts = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(parts, sent)
    rows = [part[:size].to(values.dtype) for part, size in zip(parts, sizes, strict=True)]
    rows[rank] = values
    return torch.cat(rows)


def _pad(values: Tensor, axis: int, length: int) -> Tensor:
    """Zeros behind, up to ``length`` along an axis."""
    behind = [0, 0] * (values.dim() - 1 - axis) + [0, length - values.shape[axis]]
    return F.pad(values, behind)
