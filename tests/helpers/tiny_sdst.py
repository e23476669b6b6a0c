"""A tiny SDST, four samples of different lengths, and comparison of outputs per sample."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sdst.losses.criterion import TERMS, Criterion
from sdst.models.attention import RDSA, AttentionOptions, Deformable, Standard
from sdst.models.sdst import SDST
from sdst.types import Batch, Output, Record

DV, DT, K, M = 6, 5, 3, 4
SIZES = {
    "levels": K,
    "num_queries": M,
    "dim": 16,
    "heads": 4,
    "ffn_ratio": 2,
    "roi_bins": 4,
    "actionness_dim": 8,
}
TINY_RDSA = RDSA(num_points=3, query_dim=8)
ATTENTIONS: dict[str, AttentionOptions] = {  # Tab. 5
    "rdsa": TINY_RDSA,
    "deformable": Deformable(3),
    "pure_init": Deformable(3, "pure"),
    "mixed_init": Deformable(3, "mixed"),
    "standard": Standard(),
}
# Clips, tokens, duration / clip length, (first, last clip of each true moment) of each sample.
SAMPLES = [
    (7, 4, 7.0, [(1, 2), (4, 6)]),
    (3, 6, 3.4, [(0, 2)]),
    (1, 1, 0.6, [(0, 0)]),
    (5, 2, 4.7, []),
]
ALL = range(len(SAMPLES))


def rdsa(**options: Any) -> RDSA:
    """RDSA of the tiny model with other options."""
    return replace(TINY_RDSA, **options)


def build(
    seed: int = 0,
    *,
    trained: bool = True,
    attention: str | AttentionOptions = "rdsa",
    **options: Any,
) -> SDST:
    """Tiny model in evaluation mode; ``trained`` perturbs every parameter, also those that start at zero."""
    torch.manual_seed(seed)
    chosen = ATTENTIONS[attention] if isinstance(attention, str) else attention
    model = SDST(DV, DT, attention=chosen, **{**SIZES, **options}).eval()
    if trained:
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def pad(rows: list[Tensor], length: int, fill: float) -> Tensor:
    """Stack rows of different length, padded along the second-to-last axis with garbage of size ``fill``."""
    generator = torch.Generator().manual_seed(0)
    garbage = fill * torch.randn(K, length, rows[0].shape[2], generator=generator)
    return torch.stack([torch.cat([row, garbage[:, row.shape[1] :]], dim=1) for row in rows]).half()


@cache
def stored(index: int) -> tuple[Tensor, Tensor]:
    """(K, T, Dv) video and (K, L, Dt) text of one sample as stored."""
    generator = torch.Generator().manual_seed(index)
    clips, tokens, _, _ = SAMPLES[index]
    video, text = (torch.randn(K, n, d, generator=generator) for n, d in ((clips, DV), (tokens, DT)))
    return video.half(), text.half()


def make_batch(
    order: Sequence[int] = ALL, extra_clips: int = 0, extra_tokens: int = 0, fill: float = 0
) -> Batch:
    """Samples in the given order, padded by ``extra_clips`` and ``extra_tokens`` more than needed."""
    rows = [SAMPLES[i] for i in order]
    clips, tokens = torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    length, words = int(clips.max()) + extra_clips, int(tokens.max()) + extra_tokens
    moments = torch.zeros(len(rows), 2, 2)
    moment_mask = torch.zeros(len(rows), 2, dtype=torch.bool)
    saliency, positive = torch.zeros(len(rows), length), torch.full((len(rows),), -1)
    for i, (_, _, extent, spans) in enumerate(rows):
        for g, (first, last) in enumerate(spans):
            start, end = first / extent, min((last + 1) / extent, 1)
            moments[i, g] = torch.tensor([(start + end) / 2, end - start])
            moment_mask[i, g] = True
            saliency[i, first : last + 1] = 0.5
            positive[i] = last
    return Batch(
        records=[Record(i, str(i), "query", 2.0 * SAMPLES[i][2]) for i in order],
        video=pad([stored(i)[0] for i in order], length, fill),
        video_mask=torch.arange(length) < clips[:, None],
        text=pad([stored(i)[1] for i in order], words, fill),
        text_mask=torch.arange(words) < tokens[:, None],
        num_clips=torch.tensor([row[2] for row in rows]),
        video_index=torch.arange(len(rows)),
        moments=moments,
        moment_mask=moment_mask,
        saliency=saliency,
        positive_clip=positive,
        negative_clip=torch.full_like(positive, -1),
    )


def run(model: nn.Module, batch: Batch, **options: Any) -> Output:
    return model(*batch.inputs(), **options)


def valid_parts(output: Output, sample: int, clips: int) -> dict[str, Tensor]:
    """Output of one sample without its padded clips."""
    parts = {f.name: getattr(output, f.name) for f in fields(output)}
    parts = {name: value[sample] for name, value in parts.items() if value is not None}
    parts["saliency"], parts["dense"] = parts["saliency"][:clips], parts["dense"][:clips]
    parts["video"] = parts["video"][:, :clips]
    return parts


def assert_same_sample(one: Output, i: int, other: Output, j: int, clips: int) -> None:
    expected = valid_parts(other, j, clips)
    for name, value in valid_parts(one, i, clips).items():
        torch.testing.assert_close(
            value, expected[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def changed(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a, b, atol=1e-6)


def criterion(*terms: str) -> Criterion:
    weights = {term: float(term in terms) for term in TERMS}
    return Criterion(weights, match_weights={"cls": 1.0, "l1": 1.0, "iou": 1.0})
