"""Functions that the processes of a distributed test run; a module, because each process imports it."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from helpers.tiny_baselines import build, configured, make_batch, run
from sdst.errors import UserError
from sdst.losses.criterion import Criterion
from sdst.training.gather import gather, pad_alike, world_size
from sdst.types import Batch

VIDEOS = ("u", "v", "w", "u")
"""Video of each sample; the first and the last sample share one."""


def share(name: str, order: tuple[int, ...]) -> Batch:
    """Batch of these samples only."""
    batch = make_batch(configured(name)["levels"]["count"], order)
    vids = [VIDEOS[record.qid] for record in batch.records]
    return replace(
        batch,
        records=[replace(record, vid=vid) for record, vid in zip(batch.records, vids, strict=True)],
        video_index=torch.tensor([vids.index(vid) for vid in vids]),
    )


def gradients(name: str, batch: Batch) -> dict[str, torch.Tensor]:
    """Loss and gradients of a step over the shares of all processes, averaged over the processes."""
    config = OmegaConf.create(configured(name)).loss
    criterion = Criterion(**config)
    model = build(name)
    batch = pad_alike(batch)
    output, batch = gather(run(model, batch), batch)
    loss, _ = criterion(output, batch)
    (loss * world_size()).backward()
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    if world_size() > 1:
        for gradient in found.values():
            dist.all_reduce(gradient)
            gradient /= world_size()
    return {"loss": loss.detach(), **found}


def save_gradients(names: list[str], shares: list[tuple[int, ...]], folder: Path) -> None:
    rank = int(os.environ["LOCAL_RANK"])
    dist.init_process_group("gloo", rank=rank, world_size=len(shares))
    for name in names:
        torch.save(gradients(name, share(name, shares[rank])), folder / f"{name}-{rank}.pt")
    dist.destroy_process_group()


def end_in_different_ways(how: str) -> None:
    """End the second process as ``how`` says while the first one sleeps for an hour."""
    if os.environ["LOCAL_RANK"] == "1":
        if how == "refuses":
            raise UserError("f.h5: no such file")
        if how == "breaks":
            raise RuntimeError("a bug")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)
