"""Adaptive cross-attention and the highlight losses on it, and CG-DETR's training losses."""

from dataclasses import replace

import pytest
import torch

from helpers.tiny_baselines import build, configured, make_batch
from sdst.baselines.cg_detr import CGDETR, CGCriterion, distill_loss, relevant_clips
from sdst.baselines.detr.adaptive import (
    AdaptiveLayer,
    Attended,
    differs_from_next,
    highlight_terms,
    source_video,
    words_share,
)
from sdst.baselines.detr.highlights import clip_pairs, margin_loss, rank_loss, votes, wrong_words_loss
from sdst.baselines.detr.tokens import GuidedOutput, redundancy
from sdst.errors import UserError
from sdst.types import Batch

SOURCES = ("a_0.0_48.0", "a_48.0_74.0", "b_0.0_18.0", "c_0.0_10.0")


def named(batch: Batch) -> Batch:
    """The batch with names of QVHighlights, whose first two samples are of one source video."""
    batch.records = [replace(r, vid=vid) for r, vid in zip(batch.records, SOURCES, strict=True)]
    return batch


def trained(batch: Batch) -> tuple[GuidedOutput, dict[str, torch.Tensor]]:
    model = build("cg_detr").train()
    assert isinstance(model, CGDETR)
    batch.saliency = batch.saliency.ceil()  # votes without annotators are 0 or 1
    output = model(*batch.inputs(), labels=batch)
    loss = configured("cg_detr")["loss"]
    return output, CGCriterion(loss["weights"], match_weights=loss["match_weights"]).by_level(output, batch)


@torch.no_grad()
def test_padding_changes_no_training_loss() -> None:
    _, expected = trained(named(make_batch(1)))
    _, got = trained(named(make_batch(1, extra_clips=7, extra_tokens=3)))
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_highlight_losses_treat_samples_with_and_without_wrong_words_apart() -> None:
    batch = named(make_batch(1))
    output, terms = trained(batch)
    assert output.has_negative.tolist() == [False, True, True, True]
    labels, mask = votes(batch), batch.video_mask
    expected = margin_loss(output.saliency, clip_pairs(batch))
    expected += rank_loss(output.saliency[:1], None, labels[:1], mask[:1])
    expected += rank_loss(output.saliency[1:], output.negative_saliency[1:], labels[1:], mask[1:])
    expected += wrong_words_loss(output.negative_saliency[1:], mask[1:])
    torch.testing.assert_close(terms["sal"], expected)


@torch.no_grad()
def test_a_batch_of_one_source_video_has_no_wrong_words() -> None:
    batch = make_batch(1, (0, 0))
    output, _ = trained(batch)
    assert not output.has_negative.any()
    without = replace(output, negative_saliency=None, negative_attention=None)
    for name, term in highlight_terms(output, batch).items():
        torch.testing.assert_close(term(), highlight_terms(without, batch)[name]())


def test_the_source_video_is_named_without_times() -> None:
    batch = named(make_batch(1))
    assert [source_video(record) for record in batch.records] == ["a", "a", "b", "c"]
    assert source_video(replace(batch.records[0], vid="s13-d21")) == "s13-d21"
    assert differs_from_next(make_batch(1)).all()


def test_adaptive_attention_equals_a_loop_over_heads_and_dummies_have_no_value() -> None:
    torch.manual_seed(0)
    layer = AdaptiveLayer(8, 2, 4, 0.0, 0.0)
    clips, positions, words = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    dummies = torch.randn(2, 5, 8)
    mask = torch.tensor([[1] * 9, [1] * 7 + [0] * 2]).bool()
    attended = Attended(dummies, torch.cat([dummies, words], dim=1), words, mask)
    result, weights = layer(clips, positions, attended)
    for b in range(2):
        update, mean = torch.zeros(3, 8), torch.zeros(3, 9)
        for head in (slice(0, 4), slice(4, 8)):
            scores = (clips + positions)[b, :, head] @ attended.keys[b, :, head].T / 2
            share = scores.masked_fill(~mask[b], -torch.inf).softmax(dim=-1)
            update[:, head] = share[:, 5:] @ words[b, :, head]
            mean += share / 2
        x = clips[b] + layer.out_proj(update)
        torch.testing.assert_close(result[b], layer.norm2(x + layer.ffn(layer.norm1(x))))
        torch.testing.assert_close(weights[b], mean)
        torch.testing.assert_close(words_share(weights, attended)[b], mean[:, 5:].sum(dim=1))


@torch.no_grad()
def test_divergence_is_averaged_over_relevant_clips_and_valid_keys() -> None:
    batch = make_batch(1)
    output, terms = trained(batch)
    model = build("cg_detr").train()
    given = model.types(model.inputs(*batch.inputs()[:4]))
    attended = model.dummies(given.words, given.word_mask)
    _, _, weights = model.encoder(given, attended, *model.encoder.compare(given))
    relevant = relevant_clips(batch)
    fields = model.guide(given, attended, model.dummies.positions, weights, relevant)
    torch.testing.assert_close(fields["divergence"], output.divergence)
    values = [float(output.divergence[b, t]) for b, t in relevant.nonzero().tolist()]
    assert float(terms["distill"]) == pytest.approx(sum(values) / len(values), rel=1e-5)
    nothing = replace(batch, saliency=torch.zeros_like(batch.saliency))
    assert distill_loss(output, nothing) == 0


def test_redundancy_ignores_each_tokens_similarity_to_itself() -> None:
    tokens = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, -1.0]])
    assert float(redundancy(tokens)) == pytest.approx(4 * 0.5**0.5 / 9)


def test_more_chosen_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.top_prompts must be at most model\.prompts = 3, got 4"):
        build("cg_detr", prompts=3, top_prompts=4)
