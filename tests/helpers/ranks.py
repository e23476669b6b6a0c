"""Functions that the processes of a distributed test run; a module, because each process imports it."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from helpers.tiny_baselines import build, configured, make_batch
from sdst.errors import UserError
from sdst.losses.criterion import Criterion
from sdst.training.gather import gather, pad_alike, world_size
from sdst.types import Batch

DENOISING = "denoising"
"""SDST with denoising queries. Their noise is so small that it does not matter which numbers a process draws."""
CHANGES = {DENOISING: {"denoising_groups": 2, "denoising_noise": 1e-6}}
VIDEOS = ("u", "v", "w", "u")
"""Video of each sample; the first and the last sample share one."""


def _model(name: str) -> str:
    return "sdst" if name == DENOISING else name


def share(name: str, order: tuple[int, ...]) -> Batch:
    """Batch of these samples only."""
    batch = make_batch(configured(_model(name))["levels"]["count"], order)
    most = int(batch.moment_mask.sum(dim=1).max())
    vids = [VIDEOS[record.qid] for record in batch.records]
    return replace(
        batch,
        moments=batch.moments[:, :most],
        moment_mask=batch.moment_mask[:, :most],
        records=[replace(record, vid=vid) for record, vid in zip(batch.records, vids, strict=True)],
        video_index=torch.tensor([vids.index(vid) for vid in vids]),
    )


def gradients(name: str, batch: Batch) -> dict[str, torch.Tensor]:
    """Loss and gradients of a step over the shares of all processes, averaged over the processes."""
    criterion = Criterion(**OmegaConf.create(configured(_model(name))).loss)
    model = build(_model(name), **CHANGES.get(name, {})).train()  # it has no dropout
    batch = pad_alike(batch)
    truth = {"truth": (batch.moments, batch.moment_mask)} if name == DENOISING else {}
    output, batch = gather(model(*batch.inputs(), **truth), batch)
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
