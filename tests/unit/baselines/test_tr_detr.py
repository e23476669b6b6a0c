"""The cut of TR-DETR, its own losses and its number of parameters equal naive loops."""

from dataclasses import replace
from math import exp, floor, log

import pytest
import torch
from torch import nn

from helpers.tiny_baselines import SAMPLES, build, configured, make_batch
from sdst.baselines.detr.highlights import annotated
from sdst.baselines.tr_detr import TrDetrCriterion, TrDetrOutput, cut
from sdst.training.checkpoint import build_model
from sdst.types import Batch

NEAR = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def model() -> nn.Module:
    return build("tr_detr", layer_dropout=0.0).train()


def criterion() -> TrDetrCriterion:
    loss = configured("tr_detr")["loss"]
    return TrDetrCriterion(loss["weights"], match_weights=loss["match_weights"])


def batch_of(order: tuple[int, ...] = (0, 1, 2, 3), padding: int = 0) -> Batch:
    batch = make_batch(1, order, extra_clips=padding, extra_tokens=padding)
    return replace(batch, saliency=(batch.saliency > 0).float())


def output_of(model: nn.Module, batch: Batch) -> TrDetrOutput:
    output: TrDetrOutput = model(*batch.inputs(), labels=batch)
    return output


def test_a_cut_holds_the_moments_clips_and_then_zeros() -> None:
    clips = 1 + torch.rand(200, 9, 2)
    count = torch.randint(1, 10, (200,))
    mask = torch.arange(9) < count.unsqueeze(1)
    spans = torch.rand(200, 2)
    for row, (centre, width) in enumerate(spans.tolist()):
        valid = int(count[row])
        first, last = floor((centre - width / 2) * valid), floor((centre + width / 2) * valid)
        expected = torch.zeros(9, 2)
        kept = clips[row, :valid][
            first : last + 1
        ]  # a negative start counts from the end, as in the official code
        expected[: len(kept)] = kept
        assert torch.equal(cut(clips, spans, mask)[row], expected)


@torch.no_grad()
def test_class_loss_and_clip_alignment_equal_naive_loops(model: nn.Module) -> None:
    batch, losses = batch_of(padding=3), criterion()
    output = output_of(model, batch)
    matched = torch.rand(output.class_logits.shape) < 0.3
    terms = losses.class_loss(output, matched)
    for k, got in enumerate(terms):
        values = []
        for is_moment, pair in zip(
            matched[:, k].flatten(), output.both_logits[:, k].flatten(0, 1), strict=True
        ):
            for value, target in zip(pair.tolist(), (is_moment, not is_moment), strict=True):
                right = 1 / (1 + exp(-value if target else value))
                values.append((0.25 if target else 0.75) * (1 - right) ** 2 * -log(right))
        assert got.item() == pytest.approx(sum(values) / len(values), rel=1e-4)

    seen, values = annotated(batch), []
    for i, (clips, words, _) in enumerate(SAMPLES):
        query = torch.stack([word / word.norm() for word in output.words[i, :words]]).mean(dim=0)
        for t, clip in enumerate(output.video[i, 0, :clips]):
            right = torch.sigmoid(clip @ query / clip.norm() / 0.07).item()
            values.append(-log(right if seen[i, t] else 1 - right))
    assert losses.clip_alignment(output, batch).item() == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_the_number_of_parameters_is_the_published_one_without_positions_of_words() -> None:
    def linear(width: int, out: int) -> int:
        return width * out + out

    d, norm = 256, 2 * 256
    projections = sum(2 * w + linear(w, d) + norm + linear(d, d) for w in (768 + 2, 1024))
    fuser = 4 * d + linear(4 * d, d) + linear(2 * d, d)
    ffn = linear(d, 4 * d) + 1 + linear(4 * d, d)
    encoder = 4 * (4 * linear(d, d) + ffn + 2 * norm)
    decoder = 2 * (12 * linear(d, d) + ffn + 3 * norm) + linear(d, d)
    heads = norm + 4 * linear(d, d) + linear(d, d) + linear(d, 1)
    spans = 2 * (2 * linear(d, d) + linear(d, 2)) + linear(d, 2) + 10 * 2
    gru = 2 * 3 * linear(d, d)
    expected = projections + fuser + encoder + decoder + heads + spans + gru + linear(d, d)
    assert expected == 7_912_485 - (32 * d + norm)
    model = build_model(configured("tr_detr", dim=d, heads=8), {"video_dim": 768, "text_dim": 1024})
    assert sum(p.numel() for p in model.parameters()) == expected
