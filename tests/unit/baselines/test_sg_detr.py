"""Laws of SG-DETR: guided attention, proposals, and losses equal to naive loops. There is no oracle."""

from math import cos, exp, log, pi, sin
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.composed import composed
from helpers.tiny_baselines import build, configured, make_batch
from sdst.baselines.detr.guided import GuidedDecoder, GuidedLayer
from sdst.baselines.detr.highlights import clip_pairs, votes
from sdst.baselines.detr.layers import LayerSizes
from sdst.baselines.detr.proposals import Level, Proposals, Pyramid, Selector
from sdst.baselines.sg_detr import SGDETR, GuidedCriterion, GuidedOutput, highlight_loss
from sdst.config.build import build as build_node
from sdst.errors import UserError
from sdst.spans import aligned_giou, aligned_iou, cw_to_se

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def criterion(**weights: float) -> GuidedCriterion:
    loss = configured("sg_detr")["loss"]
    return GuidedCriterion(loss["weights"] | weights, match_weights=loss["match_weights"], alpha=None)


def trained(**options: Any) -> tuple[SGDETR, Any, GuidedOutput]:
    """Model, batch, and output of a training step."""
    model, batch = build("sg_detr", **options).train(), make_batch(1)
    output = model(*batch.inputs(), labels=batch)
    assert isinstance(model, SGDETR)
    return model, batch, output


# --- parts ---


@torch.no_grad()
def test_clips_attend_to_words_in_the_measure_of_their_saliency() -> None:
    torch.manual_seed(0)
    layer = GuidedLayer(LayerSizes(dim=8, heads=2, ffn_ratio=2, dropout=0.0, drop_path=0.0))
    clips, positions, words = torch.randn(2, 5, 8), torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    mask, share = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(), torch.rand(2, 5)
    got = layer(clips, positions, words, mask, share)
    for b in range(2):
        for t in range(5):
            heads = []
            for c in (slice(0, 4), slice(4, 8)):
                keys = words[b, mask[b], c]
                weights = (keys @ (clips[b, t] + positions[b, t])[c] / 2).softmax(dim=0)
                heads.append(share[b, t] * weights @ keys)
            x = clips[b, t] + layer.out_proj(torch.cat(heads))
            expected = layer.norm2(x + layer.norm1(layer.ffn(x)))
            torch.testing.assert_close(got[b, t], expected, **CLOSE)


@torch.no_grad()
def test_the_decoder_equals_the_definition_of_its_layers() -> None:
    torch.manual_seed(0)
    sizes = LayerSizes(dim=8, heads=2, ffn_ratio=2, dropout=0.0, drop_path=0.0)
    decoder = GuidedDecoder(sizes, layers=2, prior=0.35)
    for parameter in decoder.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape))
    memory, positions, mask = torch.randn(1, 5, 8), torch.randn(1, 5, 8), torch.ones(1, 5).bool()
    proposals = Proposals(torch.randn(1, 3, 8), torch.randn(1, 3), torch.rand(1, 3, 2), torch.randn(1, 3))
    got = decoder(proposals, memory, positions, mask)

    def sines(spans: Tensor) -> Tensor:
        """Centre and width at two frequencies each, 1 and 1 / 100."""
        rows = []
        for span in spans[0].tolist():
            angles = [2 * pi * value / 100**i for value in span for i in range(2)]
            rows.append([wave(angle) for angle in angles for wave in (sin, cos)])
        return torch.tensor([rows])

    content, spans = proposals.content, proposals.spans
    for k, layer in enumerate(decoder.layers, start=1):
        guide = sines(spans) * decoder.scale_sine(content)
        guide = guide * decoder.width_ratio(content).sigmoid() / spans[..., 1:]
        content = layer(content, decoder.embed_place(sines(spans)), guide, memory, positions, mask)
        state = decoder.norm(content)
        torch.testing.assert_close(got.logits[:, k], decoder.read_class(state)[..., 0], **CLOSE)
        expected = (decoder.read_span(state) + spans.logit()).sigmoid()
        torch.testing.assert_close(got.spans[:, k], expected, **CLOSE)
        spans = (decoder.refine(content) + spans.logit()).sigmoid()
        quality = decoder.read_quality(torch.cat([content, sines(spans)], dim=-1))[..., 0]
        torch.testing.assert_close(got.quality[:, k], quality, **CLOSE)


@torch.no_grad()
def test_final_saliency_corrects_local_saliency_by_amplified_clips() -> None:
    model, batch = build("sg_detr"), make_batch(1)
    output = model(*batch.inputs())
    given = model.inputs(*batch.inputs()[:4])
    encoded = model.encoder(model.types(given), output.local_saliency)
    twice = encoded + encoded * output.local_saliency.sigmoid().unsqueeze(-1)
    expected = output.local_saliency + model.refine_saliency(twice)[..., 0]
    torch.testing.assert_close(output.saliency, expected, **CLOSE)
    torch.testing.assert_close(output.dense, encoded + encoded * expected.sigmoid().unsqueeze(-1), **CLOSE)
    cosine = F.cosine_similarity(given.clips, output.query.unsqueeze(1), dim=-1)
    local = cosine * model.local.log_scale.exp() + model.local.shift
    torch.testing.assert_close(output.local_saliency, local, **CLOSE)


@torch.no_grad()
def test_the_pyramid_has_a_point_per_half_one_two_and_four_clips() -> None:
    torch.manual_seed(0)
    pyramid, mask = Pyramid(4), torch.arange(11) < torch.tensor([[11], [6]])
    levels = pyramid(torch.randn(2, 11, 4), mask)
    assert [level.points.shape[1] for level in levels] == [22, 11, 6, 3]
    assert [level.mask.sum(dim=1).tolist() for level in levels] == [[22, 12], [11, 6], [6, 3], [3, 2]]


@torch.no_grad()
def test_the_best_points_are_selected_and_start_in_the_middle_of_their_clips() -> None:
    torch.manual_seed(0)
    selector = Selector(4, num_queries=3, prior=0.35)
    with torch.no_grad():
        selector.read_class.weight.normal_()
    masks = [torch.ones(1, size, dtype=torch.bool) for size in (8, 4, 2, 1)]
    levels = [Level(torch.randn(1, mask.shape[1], 4), mask) for mask in masks]
    got = selector(levels)
    points = selector.norm(selector.map(torch.cat([level.points for level in levels], dim=1)))
    logits, quality = selector.read_class(points)[0, :, 0], selector.read_quality(points)[0, :, 0]
    best = (logits.sigmoid() * quality.sigmoid()).topk(3).indices
    torch.testing.assert_close(got.logits[0], logits[best])
    torch.testing.assert_close(got.content[0], points[0, best])
    # A fresh selector leaves its anchors in place.
    anchors = [((i + 0.5) / n, w) for n, w in ((8, 0.05), (4, 0.2), (2, 0.4), (1, 0.85)) for i in range(n)]
    torch.testing.assert_close(got.spans[0], torch.tensor(anchors)[best])


@torch.no_grad()
def test_a_video_with_too_few_points_gets_equal_further_ones() -> None:
    model, batch = build("sg_detr", num_queries=40), make_batch(1, (3,))
    output = model(*batch.inputs())
    usable = 5 * 2 + 5 + 3 + 2
    last = output.references[0, 0, usable:]
    assert len(last) == 40 - usable
    torch.testing.assert_close(last, last[:1].expand_as(last))


@torch.no_grad()
def test_without_training_final_saliency_is_local_saliency() -> None:
    model = build_node(composed("model=sg_detr").model, video_dim=6, text_dim=5, levels=1).eval()
    batch = make_batch(1)
    output = model(*batch.inputs())
    torch.testing.assert_close(output.saliency, output.local_saliency)
    prior = output.class_logits.sigmoid().mean()
    assert float(prior) == pytest.approx(0.35, abs=0.05)


def test_a_prior_that_is_no_probability_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.prior must lie between 0 and 1, got 1"):
        build("sg_detr", prior=1.0)


# --- losses ---


@torch.no_grad()
def test_moment_losses_equal_loops_and_proposals_count_half() -> None:
    _, batch, output = trained()
    terms = criterion().by_level(output, batch)
    assignment = criterion().assign(output, batch)
    assert terms["cls"].shape == (4,)
    for k in range(4):
        share = 0.5 if k == 0 else 1.0
        classes, l1, iou, act = [], [], [], []
        for b in range(len(batch)):
            for m, g in enumerate(assignment[b, k].tolist()):
                logit = output.class_logits[b, k, m]
                classes.append(-float(F.logsigmoid(logit if g >= 0 else -logit)) * (1 if g >= 0 else 0.1))
                if g < 0:
                    continue
                predicted, true = output.references[b, k, m], batch.moments[b, g]
                l1 += [0.5 * float(d) ** 2 for d in predicted - true]  # no difference is above 1
                a, z = cw_to_se(predicted), cw_to_se(true)
                iou.append(1 - float(aligned_giou(a, z)))
                target = aligned_iou(a, z).detach()
                act.append(float(F.binary_cross_entropy(output.quality_logits[b, k, m].sigmoid(), target)))
        for name, values in {"cls": classes, "l1": l1, "iou": iou, "act": act}.items():
            assert float(terms[name][k]) == pytest.approx(share * sum(values) / len(values), rel=1e-4), name


@torch.no_grad()
def test_matching_minimises_distance_overlap_class_and_quality() -> None:
    _, batch, output = trained()
    output.quality_logits = 4 * torch.randn(output.quality_logits.shape)

    def cost(quality: float, b: int, k: int, m: int, g: int) -> float:
        predicted, true = output.references[b, k, m], batch.moments[b, g]
        value = 10 * (predicted - true).abs().sum() - aligned_giou(cw_to_se(predicted), cw_to_se(true))
        value -= 4 * output.class_logits[b, k, m].sigmoid()
        return float(value - quality * output.quality_logits[b, k, m].sigmoid())

    for weight in (1.0, 0.0):
        assignment = criterion(act=weight).assign(output, batch)
        for b in (1, 2):  # samples with a single moment
            for k in range(4):
                best = min(range(25), key=lambda m: cost(weight, b, k, m, 0))
                assert (assignment[b, k] >= 0).nonzero().tolist() == [[best]]


def naive_ranks(scores: Tensor, negatives: Tensor | None, labels: Tensor, mask: Tensor) -> float:
    total = 0.0
    for k in range(1, 12):
        for row, valid in enumerate(mask):
            logits = [float(v) / 0.5 for v in scores[row, valid]]
            others = [] if negatives is None else [float(v) / 0.5 for v in negatives[row, valid]]
            denominator = sum(exp(value) for value in logits + others)
            positive = [v for v, label in zip(logits, labels[row, valid], strict=True) if label >= k]
            if positive:
                total -= sum(log(exp(v) / denominator) for v in positive) / len(positive)
    return total / 12 / len(scores)


@torch.no_grad()
def test_highlight_losses_equal_loops() -> None:
    torch.manual_seed(0)
    batch = make_batch(1)
    labels, mask, pairs = votes(batch), batch.video_mask, clip_pairs(batch)
    scores, negatives = torch.randn(2, *mask.shape)
    real = torch.tensor([True, False, True, False])
    share = scores.sigmoid()
    relevance = [
        -log(float(share[b, t]) if labels[b, t] > 0 else 1 - float(share[b, t]))
        for b, t in mask.nonzero().tolist()
    ]
    gaps = [
        max(0.0, 0.15 + float(share[b, low]) - float(share[b, high]))
        for b in range(4)
        if pairs.mask[b]
        for high, low in zip(pairs.higher[b], pairs.lower[b], strict=True)
    ]
    alone = sum(relevance) / len(relevance) + 2 * sum(gaps) / 8
    expected = alone + naive_ranks(scores, None, labels, mask)
    assert float(highlight_loss(scores, None, None, batch)) == pytest.approx(expected, rel=1e-4)
    wrong = [-log(1 - float(v)) for v in negatives.sigmoid()[real][mask[real]]]
    expected = alone + sum(wrong) / len(wrong)
    expected += naive_ranks(scores[real], negatives[real], labels[real], mask[real])
    expected += naive_ranks(scores[~real], None, labels[~real], mask[~real])
    assert float(highlight_loss(scores, negatives, real, batch)) == pytest.approx(expected, rel=1e-4)


def test_a_batch_about_one_source_video_has_no_wrong_words() -> None:
    model, batch = build("sg_detr").train(), make_batch(1, (0, 0))
    output = model(*batch.inputs(), labels=batch)
    assert output.has_negative.tolist() == [False, False]
    total, _ = criterion()(output, batch)
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_wrong_words_are_those_of_the_next_sample() -> None:
    model, batch, output = trained(max_words=4)
    batch.text, batch.text_mask = batch.text.roll(-1, dims=0), batch.text_mask.roll(-1, dims=0)
    rolled = model(*batch.inputs(), labels=batch)
    for b, clips in enumerate(batch.video_mask.sum(dim=1).tolist()):
        for wrong, right in (
            (output.negative_saliency, rolled.saliency),
            (output.negative_local_saliency, rolled.local_saliency),
        ):
            torch.testing.assert_close(wrong[b, :clips], right[b, :clips], **CLOSE)


def test_a_query_is_ranked_by_class_and_quality() -> None:
    config = composed("model=sg_detr")
    assert (config.loss.weights.cls, config.loss.weights.act, config.decode.score) == (5, 1, "auto")
    _, _, output = trained()
    torch.testing.assert_close(output.actionness, output.quality_logits[:, -1].sigmoid())
