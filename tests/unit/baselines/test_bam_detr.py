"""The losses of BAM-DETR, its points around boundaries and its number of parameters equal naive loops."""

from dataclasses import replace
from itertools import permutations
from math import log

import pytest
import torch

from helpers.tiny_baselines import SAMPLES, build, configured, make_batch, run
from sdst.baselines.bam_detr import BamDetrCriterion, BamDetrOutput, boundary_loss, quality_loss
from sdst.baselines.detr.boundaries import BoundaryLayer, inside_video
from sdst.baselines.detr.layers import LayerSizes
from sdst.spans import cw_to_se, pairwise_giou, pairwise_iou
from sdst.training.checkpoint import build_model
from sdst.types import Batch


@pytest.fixture
def batch() -> Batch:
    return make_batch(1, extra_clips=3)


@pytest.fixture
def output(batch: Batch) -> BamDetrOutput:
    with torch.no_grad():
        output = run(build("bam_detr"), batch)
    assert isinstance(output, BamDetrOutput)
    return output


def test_quality_loss_equals_a_naive_loop(batch: Batch, output: BamDetrOutput) -> None:
    # Some moments overlap a true one much, some a little.
    references = output.references.clone()
    references[0, :, :3], references[1, :, 0] = batch.moments[0], batch.moments[1, 0] * 0.9
    output = replace(output, references=references)
    for k, got in enumerate(quality_loss(output, batch)):
        groups: dict[str, list[float]] = {"low": [], "middle": [], "high": []}
        for i, (*_, spans) in enumerate(SAMPLES):
            true = cw_to_se(batch.moments[i, : len(spans)])
            for logit, span in zip(output.class_logits[i, k], output.references[i, k], strict=True):
                ious = pairwise_iou(cw_to_se(span[None]).clamp(0, 1), true).flatten().tolist()
                best = max(ious, default=0.0)
                name = "low" if best <= 0.3 else "middle" if best <= 0.7 else "high"
                groups[name].append(abs(logit.sigmoid().item() - best))
        assert len(groups["high"]) >= 3
        expected = sum(sum(group) / max(len(group), 1) for group in groups.values()) / 3
        assert got.item() == pytest.approx(expected, rel=1e-5)


def test_boundary_loss_equals_a_naive_loop(batch: Batch, output: BamDetrOutput) -> None:
    total = 0.0
    for i, (clips, _, spans) in enumerate(SAMPLES):
        for side in range(2):
            losses: dict[bool, list[float]] = {True: [], False: []}
            for clip in range(clips):
                before, behind = ((0.25, 0.1), (0.1, 0.25))[side]
                near = any(
                    span[side] - before * (span[1] - span[0])
                    <= clip + 0.5
                    <= span[side] + behind * (span[1] - span[0])
                    for span in spans
                )
                predicted = output.boundaries[i, clip, side].item()
                losses[near].append(-log(predicted if near else 1 - predicted))
            total += sum(sum(group) / max(len(group), 1) for group in losses.values()) / 4
    assert boundary_loss(output, batch).item() == pytest.approx(total / len(SAMPLES), rel=1e-4)


@torch.no_grad()
def test_a_boundary_reads_points_between_the_first_and_the_last_clip() -> None:
    layer = BoundaryLayer(LayerSizes(dim=4, heads=2, ffn_ratio=2, dropout=0.0, drop_path=0.0))
    content, clips = torch.randn(2, 3, 4), torch.randn(2, 7, 8)
    boundary, count = torch.rand(2, 3), torch.tensor([7.0, 5.0])
    got = layer(content, boundary, clips, count)
    values, read = layer.value(clips), torch.zeros(2, 3, 2, 2)
    for i in range(2):
        for m in range(3):
            offsets = layer.offsets(content[i, m]).view(2, 4)
            weights = layer.weights(content[i, m]).view(2, 4).softmax(dim=1)
            for head in range(2):
                for offset, weight in zip(offsets[head], weights[head], strict=True):
                    share = (boundary[i, m] + offset / count[i]).clamp(0, 1)
                    place = (share * (count[i] - 1)).item()
                    left, right = int(place), min(int(place) + 1, int(count[i]) - 1)
                    at = values[i, left] + (values[i, right] - values[i, left]) * (place - left)
                    read[i, m, :, head] += weight * at[2 * head : 2 * head + 2]
    updated = layer.norm2(content + layer.out(read.flatten(2)))
    torch.testing.assert_close(got, layer.norm3(updated + layer.ffn(updated)))


def test_queries_that_lead_out_of_the_video_are_shortened_and_keep_their_gradient() -> None:
    queries = torch.tensor([[0.0, -1.0, -2.0], [1.0, 3.0, 2.0]], requires_grad=True)
    inside = inside_video(queries)
    torch.testing.assert_close(inside, torch.tensor([[0.0, -1.0, -2.0], [1.0, 1.0, -1.0]]))
    anchor, before, behind = inside.sigmoid().unbind(dim=1)
    assert (anchor - before >= 0).all()
    assert (anchor + behind <= 1 + 1e-6).all()
    inside.sum().backward()
    assert torch.equal(queries.grad, torch.ones(2, 3))


def test_the_number_of_parameters_is_the_published_one_without_those_without_effect() -> None:
    def linear(width: int, out: int) -> int:
        return width * out + out

    d, norm = 256, 2 * 256
    projections = sum(2 * w + linear(w, d) + norm + linear(d, d) for w in (768 + 2, 1024))
    ffn = linear(d, 4 * d) + 1 + linear(4 * d, d)
    encoder_layer = 4 * linear(d, d) + ffn + 2 * norm
    encoder = 4 * encoder_layer + 2 * d
    anchors = 2 * (12 * linear(d, d) + ffn + 3 * norm) + linear(d, d)
    reading = 2 * linear(d, 4 * 8) + linear(2 * d, d) + linear(d, d)
    boundaries = 4 * (reading + ffn + 2 * norm)
    convolutions = 2 * (2 * linear(3 * d, d) + linear(d, d))
    refinement = 6 * (2 * linear(d, d) + linear(d, 1))
    places = linear(2 * d, 2 * d) + linear(2 * d, d) + 2 * linear(d, d) + linear(d, d) + linear(d, 1)
    quality = linear(3 * d, d) + linear(d, d) + linear(d, 1)
    queries = 10 * 3 + 10 * 3 * d
    decoder = anchors + boundaries + convolutions + refinement + places + quality + queries
    expected = projections + encoder + decoder + 2 * linear(d, d)
    text_encoder = 2 * encoder_layer + 2 * d
    scales, boundary_places = 2 * 2 * linear(d, d), 2 * linear(d, d)
    classes, positions = 2 * linear(3 * d, 2), 32 * d + norm
    without_effect = text_encoder + scales + boundary_places + 4 * norm + classes + positions
    assert without_effect == 1_988_614
    assert expected == 14_107_706 - without_effect
    model = build_model(configured("bam_detr", dim=d, heads=8), {"video_dim": 768, "text_dim": 1024})
    assert sum(p.numel() for p in model.parameters()) == expected


def test_matching_and_distance_compare_starts_and_ends(batch: Batch, output: BamDetrOutput) -> None:
    loss = configured("bam_detr")["loss"]
    criterion = BamDetrCriterion(loss["weights"], match_weights=loss["match_weights"])
    got = criterion.by_level(output, batch)["l1"]
    for k in range(2):
        distances = []
        for i, (*_, spans) in enumerate(SAMPLES):
            if not spans:
                continue
            predicted, true = cw_to_se(output.references[i, k]), cw_to_se(batch.moments[i, : len(spans)])
            inside = predicted.clamp(0, 1)
            cost = 10 * torch.cdist(inside, true, p=1) - pairwise_giou(inside, true)
            queries = min(
                permutations(range(len(cost)), len(spans)),
                key=lambda chosen, cost=cost: sum(cost[m, g].item() for g, m in enumerate(chosen)),
            )
            distances += (predicted[list(queries)] - true).abs().flatten().tolist()
        assert got[k].item() == pytest.approx(sum(distances) / len(distances), rel=1e-4)
