"""Oracles of the DETR methods' official code: weights, batches, outputs, losses and gradients."""

import json
from functools import cache
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.composed import composed
from helpers.shared_data import SHARED
from sdst.baselines.detr.highlights import rank_loss, votes
from sdst.config.build import build
from sdst.losses.criterion import Criterion
from sdst.spans import se_to_cw
from sdst.types import Batch, Output, Record

ORACLES = SHARED / "oracles" / "peers"
CLIP_SECONDS = 2.0


@cache
def oracle(name: str, *, padded: bool = False) -> dict[str, Tensor]:
    """Inputs and results of the official code for a batch with or without padding."""
    return load_file(ORACLES / f"{name}_tiny{'' if padded else '.nopad'}.io.safetensors")


@cache
def sizes(name: str) -> dict[str, Any]:
    return json.loads((ORACLES / f"{name}_tiny.config.json").read_text())


def official_weights(name: str) -> dict[str, Tensor]:
    return load_file(ORACLES / f"{name}_tiny.weights.safetensors")


def tiny_model(name: str, **changes: Any) -> nn.Module:
    """The model of ``conf/model/NAME.yaml`` at the oracle's width, without dropout, with random weights."""
    model = composed(f"model={name}").model.copy()
    model.dim = sizes(name)["hyper_parameters"]["hidden_dim"]
    for option in ("dropout", "layer_dropout", "drop_path"):
        model[option] = 0.0
    for option, value in changes.items():
        model[option] = value
    return build(model, video_dim=sizes(name)["Dv"], text_dim=sizes(name)["Dt"], levels=1)


def criterion_of(name: str, model: nn.Module) -> Criterion:
    """The method's losses with its published weights on QVHighlights."""
    loss = composed(f"model={name}").loss
    return model.criterion(loss.weights, match_weights=loss.match_weights, alpha=loss.alpha, gamma=loss.gamma)


def official_batch(io: dict[str, Tensor]) -> Batch:
    """The oracle's inputs and labels as a batch.

    The official code divides moments by the length of all clips, and multiplies predictions with the duration.
    """
    video_mask, text_mask = io["input.video_mask"].bool(), io["input.text_mask"].bool()
    num_clips = video_mask.sum(dim=1).float()
    moments_se = io["target.moments_seconds"]
    moment_mask = moments_se[..., 0] >= 0
    moments = se_to_cw(moments_se) / CLIP_SECONDS / num_clips[:, None, None]
    votes = io["target.saliency_votes"]
    sources = io["input.source_video"].tolist()
    return Batch(
        records=[
            Record(i, f"{source}_{2 * i}.0_{2 * i + 150}.0", "query", duration, clip_scores=votes[i].numpy())
            for i, (source, duration) in enumerate(
                zip(sources, io["target.duration_seconds"].flatten().tolist(), strict=True)
            )
        ],
        video=io["input.video_raw"].unsqueeze(1),
        video_mask=video_mask,
        text=io["input.text_raw"].unsqueeze(1),
        text_mask=text_mask,
        num_clips=num_clips,
        video_index=torch.arange(len(sources)),
        moments=moments.where(moment_mask[..., None], 0),
        moment_mask=moment_mask,
        saliency=votes.clamp(min=0).sum(dim=-1).float() / 12,
        positive_clip=io["target.saliency_pos_labels"][:, -1].long(),
        negative_clip=io["target.saliency_neg_labels"][:, -1].long(),
    )


def lone_ranks(output: Output, batch: Batch) -> Tensor:
    """Ranks, by saliency and by attention, of the only sample without wrong words, which the official code misses."""
    lone = ~output.has_negative.bool()
    assert lone.sum() == 1
    return sum(
        rank_loss(scores[lone], None, votes(batch)[lone], batch.video_mask[lone])
        for scores in (output.saliency, output.attention)
    )


def sample(batch: Batch, index: int) -> Batch:
    """One sample of a batch, without padding."""
    clips, tokens = batch.video_mask[index].sum(), batch.text_mask[index].sum()
    one = Batch(**{name: value[index : index + 1] for name, value in vars(batch).items()})
    one.video, one.video_mask = one.video[:, :, :clips], one.video_mask[:, :clips]
    one.text, one.text_mask = one.text[:, :, :tokens], one.text_mask[:, :tokens]
    one.saliency = one.saliency[:, :clips]
    return one
