"""``sdst bench extract``: decoding videos and running the backbone on their clips, measured separately."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch

from sdst.bench.costs import count_flops
from sdst.bench.machine import GEMM_GFLOP, gemm
from sdst.bench.rounds import interleave, spread
from sdst.errors import UserError
from sdst.features.allocator import keep_freed_memory
from sdst.features.backbone.backbone import load_backbone, usable_device
from sdst.features.encode import encode_clips
from sdst.features.video import ClipSpec, VideoReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdst.bench.report import Row

LAYERS = 4
"""Number of last blocks whose features are pooled, the default of ``sdst extract``."""


def bench_extract(
    videos: Sequence[Path], config: str, checkpoint: Path | None, batch_size: int, rounds: int
) -> list[Row]:
    """Clips per second of one decoding process, and of the backbone in float32.

    Args:
        videos: Video files to decode; the backbone encodes their first clips.
        config: Preset or configuration file of the backbone.
        checkpoint: Weights of the backbone; None for those in the package.
        batch_size: Number of clips in a batch.
        rounds: Number of timed rounds.

    Raises:
        UserError: A file cannot be used, or the videos have fewer clips than one batch.
    """
    keep_freed_memory()  # as extraction does
    device = usable_device(None)
    backbone = load_backbone(checkpoint, config, device=device)
    vision = backbone.vision_config
    spec = ClipSpec(num_frames=vision.num_frames, size=vision.img_size)
    layers = range(vision.depth - LAYERS + 1, vision.depth + 1)

    def decode() -> Iterator[Tensor]:
        for path in videos:
            yield from VideoReader(path, spec)

    clips = list(islice(decode(), batch_size))
    if len(clips) < batch_size:
        raise UserError(
            f"--batch {batch_size}: the videos must have at least as many clips, found {len(clips)}; "
            "give more or longer videos, or a smaller batch"
        )
    batch = torch.stack(clips)

    def encode() -> None:
        encode_clips(backbone, batch, layers, ["adaptive"])

    num_clips = sum(1 for _ in decode())
    gflop = count_flops(encode) / 1e9
    jobs = {
        "decoding": lambda: [None for _ in decode()],
        "backbone": encode,
        "gemm": gemm(device, torch.float32),
    }
    seconds = {name: spread(times) for name, times in interleave(jobs, rounds).items()}
    per_clip = seconds["backbone"].median / batch_size
    return [
        {
            "part": "decoding",
            "clips": num_clips,
            "seconds": seconds["decoding"],
            "clips_per_second": num_clips / seconds["decoding"].median,
        },
        {
            "part": "backbone",
            "clips": batch_size,
            "seconds": seconds["backbone"],
            "clips_per_second": 1 / per_clip,
            "gflop_per_clip": gflop / batch_size,
            "share_of_gemm": gflop / seconds["backbone"].median / (GEMM_GFLOP / seconds["gemm"].median),
        },
    ]
