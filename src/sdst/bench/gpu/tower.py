"""Extraction with the vision tower of 1B parameters and random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from sdst.bench.costs import count_flops
from sdst.bench.extract import LAYERS
from sdst.bench.machine import gemm, gemm_gflop
from sdst.bench.rounds import interleave, spread
from sdst.features.backbone.backbone import Backbone
from sdst.features.backbone.internvideo2 import VisionTower
from sdst.features.backbone.sizes import read_config
from sdst.features.encode import encode_clips
from sdst.training.provenance import peak_memory_gb, reset_peak_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdst.bench.gpu.settings import Settings
    from sdst.bench.report import Row


def tower(settings: Settings, seconds: float) -> Iterator[Row]:
    """Clips per second in each precision, from decoded frames in main memory to features in main memory."""
    device, sizes = torch.device(settings.device), settings.sizes
    config = read_config(sizes.backbone)
    vision = config.vision
    with device:
        weights = VisionTower(vision).eval().requires_grad_(False)
    shape = (sizes.clips, vision.num_frames, vision.in_chans, vision.img_size, vision.img_size)
    clips = torch.randint(256, shape, dtype=torch.uint8)
    layers = range(vision.depth - LAYERS + 1, vision.depth + 1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        backbone = Backbone(config, weights.to(dtype), cast("Any", None), None, "random")

        def encode(backbone: Backbone = backbone) -> None:
            encode_clips(backbone, clips, layers, ["adaptive"])

        gflop = count_flops(encode) / 1e9
        reset_peak_memory()
        encode()
        peak = peak_memory_gb()
        product = gemm(device, dtype, sizes.product)
        times = interleave({"encode": encode, "product": product}, settings.rounds)
        middle = {name: spread(values).median for name, values in times.items()}
        yield {
            "case": f"{config.name}, {str(dtype).removeprefix('torch.')}, {sizes.clips} clips at once",
            "clips_per_second": sizes.clips / middle["encode"],
            "seconds": spread(times["encode"]),
            "gflop_per_clip": gflop / sizes.clips,
            "share_of_product_rate": gflop
            / middle["encode"]
            / (gemm_gflop(sizes.product) / middle["product"]),
            "peak_gb": peak,
        }
