"""Tiny versions of every baseline in ``conf/model``, and a batch with moments of many lengths."""

from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

from helpers.composed import composed
from sdst.baselines.detr.model import DetrModel
from sdst.config.compose import conf_dir
from sdst.training.checkpoint import build_model
from sdst.types import Batch, Output, Record

ALL_MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml") if path.stem != "sdst")
DETR_MODELS = [
    name
    for name in ALL_MODELS
    if issubclass(get_class(composed(f"model={name}").model["_target_"]), DetrModel)
]
MODELS = [name for name in ALL_MODELS if name not in DETR_MODELS]
"""Side networks with R2-Tuning's heads."""
DV, DT = 6, 5
SMALL = {"dim": 16, "heads": 2, "dropout": 0.0, "layer_dropout": 0.0, "drop_path": 0.0}
SAMPLES = [  # clips, tokens, moments (first clip, clip after the last)
    (24, 5, [(1, 3), (6, 11), (12, 24)]),
    (13, 3, [(2, 12)]),
    (9, 1, [(0, 3)]),
    (5, 4, []),
]


def configured(name: str, **changes: Any) -> dict[str, Any]:
    """Configuration of a tiny model."""
    config: Any = OmegaConf.to_container(composed(f"model={name}"), resolve=False)
    config["model"] |= {key: value for key, value in SMALL.items() if key in config["model"]} | changes
    return config


def build(name: str, **changes: Any) -> nn.Module:
    """Model whose parameters are all random, also those that start at a neutral value."""
    torch.manual_seed(0)
    model = build_model(configured(name, **changes), {"video_dim": DV, "text_dim": DT})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def make_batch(
    levels: int, order: tuple[int, ...] = (0, 1, 2, 3), extra_clips: int = 0, extra_tokens: int = 0
) -> Batch:
    """Samples in the given order, padded with garbage plus ``extra_clips`` and ``extra_tokens``."""
    rows = [SAMPLES[i] for i in order]
    clips, tokens = (torch.tensor([row[k] for row in rows]) for k in (0, 1))
    num_clips, num_tokens = int(clips.max()) + extra_clips, int(tokens.max()) + extra_tokens
    video, text = (
        torch.empty(len(rows), levels, num_clips, DV),
        torch.empty(len(rows), levels, num_tokens, DT),
    )
    for i, index in enumerate(order):
        for features, valid in ((video, clips), (text, tokens)):
            generator = torch.Generator().manual_seed(index)
            own = torch.randn(levels, int(valid[i]), features.shape[3], generator=generator)
            features[i] = 9.0
            features[i, :, : own.shape[1]] = own
    moments, saliency = torch.zeros(len(rows), 3, 2), torch.zeros(len(rows), num_clips)
    for i, (valid, _, spans) in enumerate(rows):
        for g, (first, behind) in enumerate(spans):
            moments[i, g] = torch.tensor([(first + behind) / 2 / valid, (behind - first) / valid])
            saliency[i, first:behind] = 0.5
    return Batch(
        records=[Record(i, str(i), "query", 2.0 * SAMPLES[i][0]) for i in order],
        video=video.half(),
        video_mask=torch.arange(num_clips) < clips[:, None],
        text=text.half(),
        text_mask=torch.arange(num_tokens) < tokens[:, None],
        num_clips=clips.float(),
        video_index=torch.tensor(order),
        moments=moments,
        moment_mask=moments[..., 1] > 0,
        saliency=saliency,
        positive_clip=torch.tensor([row[2][0][0] if row[2] else -1 for row in rows]),
        negative_clip=torch.tensor([row[2][0][1] if row[2] else 0 for row in rows]),
    )


def run(model: nn.Module, batch: Batch) -> Output:
    output: Output = model(*batch.inputs())
    return output
