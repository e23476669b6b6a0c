"""Laws of all DETR methods, and their shared losses against naive loops."""

from dataclasses import replace
from math import exp, log

import pytest
import torch
from torch import Tensor

from helpers.tiny_baselines import DETR_MODELS, SAMPLES, build, configured, make_batch, run
from sdst.baselines.detr.criterion import SetCriterion
from sdst.baselines.detr.decoder import logit
from sdst.baselines.detr.highlights import (
    ClipPairs,
    annotated,
    clip_pairs,
    margin_loss,
    rank_loss,
    votes,
    wrong_words_loss,
)
from sdst.baselines.detr.layers import attend
from sdst.baselines.detr.model import DetrModel
from sdst.baselines.qd_detr import QDDETR
from sdst.errors import UserError
from sdst.models.layers import Dropout
from sdst.spans import aligned_giou
from sdst.types import Output


def criterion(name: str, model: DetrModel) -> SetCriterion:
    loss = configured(name)["loss"]
    return model.criterion(loss["weights"], match_weights=loss["match_weights"], alpha=loss["alpha"])


def assert_same(ours: Output, i: int, theirs: Output, j: int, clips: int) -> None:
    """Check that sample i of one output equals sample j of another, at all valid clips and points."""
    for name in ("class_logits", "references"):
        a, b = (
            getattr(output, name)[k][:, ... if output.anchors is None else output.anchors.mask[k]]
            for output, k in ((ours, i), (theirs, j))
        )
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.saliency[i, :clips], theirs.saliency[j, :clips], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", DETR_MODELS)
@torch.no_grad()
def test_a_sample_alone_equals_the_same_sample_in_any_padded_batch(name: str) -> None:
    model, order = build(name), (2, 0, 3, 1)
    together = run(model, make_batch(1, order, extra_clips=10, extra_tokens=2))
    for j, i in enumerate(order):
        assert_same(together, j, run(model, make_batch(1, (i,))), 0, SAMPLES[i][0])


@pytest.mark.parametrize("name", DETR_MODELS)
@torch.no_grad()
def test_one_video_for_all_queries_gives_the_same_output_as_copies_of_it(name: str) -> None:
    model, batch = build(name), make_batch(1)
    clips, rows = SAMPLES[0][0], len(batch)
    mask, extents = batch.video_mask[:1].expand(rows, -1), batch.num_clips[:1].expand(rows)
    many = batch.video[:1].expand(rows, -1, -1, -1)
    shared, repeated = (
        model(video, mask, batch.text, batch.text_mask, extents) for video in (batch.video[:1], many)
    )
    for i in range(rows):
        assert_same(shared, i, repeated, i, clips)


@pytest.mark.parametrize("name", DETR_MODELS)
def test_every_parameter_gets_a_finite_gradient_in_training(name: str) -> None:
    """Parameters without effect by design get a gradient of zero: what reads the decoder's first, empty content."""
    model, batch = build(name).train(), make_batch(1)
    total, terms = criterion(name, model)(model(*batch.inputs(), labels=batch), batch)
    total.backward()
    assert all(term.isfinite() for term in terms.values())
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", DETR_MODELS)
@torch.no_grad()
def test_clips_beyond_the_longest_length_are_not_read(name: str) -> None:
    """Moments are shares of the whole video, so those of a cut video are those of its beginning, scaled."""
    model, batch = build(name, max_clips=12, max_words=3), make_batch(1, (0,))
    whole = run(model, batch)
    begin = replace(
        batch,
        video=batch.video[:, :, :12],
        video_mask=batch.video_mask[:, :12],
        text=batch.text[:, :, :3],
        text_mask=batch.text_mask[:, :3],
        num_clips=torch.tensor([12.0]),
    )
    cut = run(model, begin)
    torch.testing.assert_close(whole.class_logits, cut.class_logits)
    torch.testing.assert_close(whole.references, cut.references / 2)
    assert whole.saliency.shape == (1, 24)
    assert (whole.saliency[:, 12:] == whole.saliency[:, :12].amin()).all()


@pytest.mark.parametrize("name", DETR_MODELS)
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"dim": 15}, "model.dim"),
        ({"max_clips": 0}, "model.max_clips"),
        ({"layer_dropout": 1.0}, "model.layer_dropout"),
    ],
)
def test_the_message_names_an_invalid_option(name: str, options: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=key):
        build(name, **options)


def test_a_value_of_the_wrong_type_is_named_also_for_options_of_the_base_class() -> None:
    with pytest.raises(UserError, match=r"model\.places must be true or false, got 'off'"):
        build("qd_detr", places="off")


def test_a_batch_of_one_has_no_wrong_words() -> None:
    model, batch = build("qd_detr").train(), make_batch(1, (0,))
    assert isinstance(model, QDDETR)
    assert model(*batch.inputs(), labels=batch).negative_saliency is None


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_attention_equals_a_loop_over_heads(dropout: float) -> None:
    """The path with dropout is another one; so small a probability drops nothing."""
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]).bool()
    layer = Dropout(dropout).train()
    layer.dropped = int(dropout > 0)  # of 2^16
    got = attend(query, key, value, 2, mask, layer)
    for b in range(2):
        for head in range(2):
            q, k = (x[b, :, 4 * head : 4 * head + 4] for x in (query, key))
            weights = (q @ k.T / 2).masked_fill(~mask[b], -torch.inf).softmax(dim=-1)
            expected = weights @ value[b, :, 2 * head : 2 * head + 2]
            torch.testing.assert_close(got[b, :, 2 * head : 2 * head + 2], expected, atol=2e-4, rtol=1e-3)


def test_logit_inverts_the_sigmoid_and_stays_finite() -> None:
    shares = torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0])
    torch.testing.assert_close(logit(shares)[1:4].sigmoid(), shares[1:4])
    assert logit(shares).isfinite().all()


def test_generalised_iou_of_overlapping_touching_and_distant_spans() -> None:
    a = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 1.0], [3.0, 3.0]])
    b = torch.tensor([[1.0, 3.0], [1.0, 2.0], [3.0, 4.0], [3.0, 3.0]])
    torch.testing.assert_close(aligned_giou(a, b), torch.tensor([1 / 3, 0.0, -0.5, -1.0]))


# --- highlight losses ---


def test_pairs_are_the_extreme_annotated_clips_and_the_drawn_ones() -> None:
    batch = make_batch(1)
    batch.saliency[0, 6:11] = torch.tensor([3, 12, 5, 12, 1]) / 12
    batch.saliency[0, 1:3], batch.saliency[0, 12:] = 4 / 12, 4 / 12
    batch.records[0] = replace(batch.records[0], clip_scores=torch.zeros(24, 3).numpy())
    batch.positive_clip[0], batch.negative_clip[0] = 8, 4
    pairs = clip_pairs(batch)
    assert (pairs.higher[0].tolist(), pairs.lower[0].tolist()) == ([7, 8], [10, 4])
    assert pairs.mask.tolist() == [True, True, True, False]
    assert annotated(batch)[0].nonzero().flatten().tolist() == [1, 2, *range(6, 11), *range(12, 24)]


def test_votes_without_annotators_are_one_inside_moments() -> None:
    batch = make_batch(1)
    batch.saliency[batch.saliency > 0] = 1.0
    assert votes(batch).unique().tolist() == [0, 1]


def naive_rank(scores: Tensor, negatives: Tensor | None, labels: Tensor, mask: Tensor) -> float:
    total = 0.0
    for k in range(1, 12):
        for row in range(len(scores)):
            valid = mask[row].nonzero().flatten().tolist()
            logits = [float(scores[row, t]) / 0.5 for t in valid]
            if negatives is not None:
                logits += [float(negatives[row, t]) / 0.5 for t in valid]
            denominator = sum(exp(value) for value in logits)
            positive = [t for t in valid if labels[row, t] >= k]
            if positive:
                chances = [log(exp(float(scores[row, t]) / 0.5) / denominator) for t in positive]
                total -= sum(chances) / len(positive) / len(scores)
    return total / 12


@pytest.mark.parametrize("with_negatives", [False, True])
def test_ranks_equal_a_loop(with_negatives: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, negatives = torch.randn(2, 3, 6, generator=generator)
    labels = torch.randint(0, 13, (3, 6), generator=generator).float()
    labels[2] = 0
    mask = torch.arange(6) < torch.tensor([[6], [4], [5]])
    wrong = negatives if with_negatives else None
    expected = naive_rank(scores, wrong, labels, mask)
    assert float(rank_loss(scores, wrong, labels, mask)) == pytest.approx(expected, rel=1e-4)


def test_margin_and_wrong_words_equal_a_loop() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.4], [0.0, 1.0, 0.2]])
    pairs = ClipPairs(
        torch.tensor([[0, 2], [1, 1]]), torch.tensor([[1, 0], [0, 2]]), torch.tensor([True, True])
    )
    gaps = [max(0.0, 0.2 + low - high) for high, low in ((0.5, 0.1), (0.4, 0.5), (1.0, 0.0), (1.0, 0.2))]
    assert float(margin_loss(scores, pairs)) == pytest.approx(2 * sum(gaps) / 4)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    expected = sum(-log(1 - 1 / (1 + exp(-float(scores[b, t])))) for b, t in mask.nonzero().tolist()) / len(
        scores
    )
    assert float(wrong_words_loss(scores, mask)) == pytest.approx(expected, rel=1e-5)
