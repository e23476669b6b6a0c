"""The two-stage initialisation of Tab. 5 equals a loop, and its losses reach only the documented parts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.tiny_sdst import ATTENTIONS, SAMPLES, K, M, build, changed, criterion, make_batch, run
from sdst.losses.criterion import TERMS
from sdst.models.interpolation import ClipAxis
from sdst.models.proposals import BASE_WIDTH, ProposalHead

DIM, QUERIES = 8, 4
COUNTS, EXTENTS = [7, 2, 1, 4], [7.0, 1.6, 0.7, 4.0]
INITIALISED = ("pure_init", "mixed_init")


def make(pure: bool = True) -> ProposalHead:
    torch.manual_seed(0)
    head = ProposalHead(DIM, pure)
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return head


def example(clips: int = 7) -> tuple[Tensor, Tensor, Tensor, ClipAxis]:
    """(B, T, d) clips, learned (M, d) and (M, 2), the axis; padded clips would have the best scores."""
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(len(COUNTS), 7, DIM, generator=generator)
    queries, logits = (
        torch.randn(QUERIES, DIM, generator=generator),
        torch.randn(QUERIES, 2, generator=generator),
    )
    dense = torch.nn.functional.pad(dense, (0, 0, 0, clips - 7))
    mask = torch.arange(clips) < torch.tensor(COUNTS)[:, None]
    dense = torch.where(mask.unsqueeze(-1), dense, 100 * make().classify.weight[0].detach())
    return dense, queries, logits, ClipAxis(mask, torch.tensor(COUNTS).float(), torch.tensor(EXTENTS))


@pytest.mark.parametrize("clips", [7, 12])
@pytest.mark.parametrize("pure", [True, False])
def test_queries_start_at_the_best_clips_and_the_rest_are_learned(pure, clips):
    head = make(pure)
    dense, queries, logits, axis = example(clips)
    with torch.no_grad():
        start = head(dense, queries, logits, axis)
    for b, (count, extent) in enumerate(zip(COUNTS, EXTENTS, strict=True)):
        scored = [(head.classify(dense[b, t]).item(), t) for t in range(count)]
        best = [t for _, t in sorted(scored, reverse=True)][:QUERIES]
        for m in range(QUERIES):
            if m < len(best):
                clip = dense[b, best[m]]
                base = torch.tensor([(best[m] + 0.5) / extent, BASE_WIDTH]).logit()
                expected, score = base + head.regress(clip), head.classify(clip)
                query = head.project(clip) if pure else queries[m]
            else:
                expected, score, query = logits[m], head.classify(queries[m]), queries[m]
            torch.testing.assert_close(start.reference_logits[b, m], expected)
            torch.testing.assert_close(start.moments[b, m], expected.sigmoid())
            torch.testing.assert_close(start.class_logits[b, m], score[0])
            torch.testing.assert_close(start.queries[b, m], query)


def test_clips_of_equal_score_are_selected_in_order_for_any_padding():
    head = make()
    torch.nn.init.zeros_(head.classify.weight)
    for clips in (7, 40):
        dense, queries, logits, axis = example(clips)
        got = head(dense, queries, logits, axis).queries[0]
        torch.testing.assert_close(got, head.project(dense[0, :QUERIES]))


def test_a_clip_at_the_end_of_a_partial_video_still_proposes_a_moment():
    """In a video of a fifth of a clip, the centre of the only clip is beyond the video's end."""
    axis = ClipAxis(torch.ones(1, 1, dtype=torch.bool), torch.tensor([1.0]), torch.tensor([0.2]))
    _, queries, logits, _ = example()
    start = make()(torch.randn(1, 1, DIM), queries, logits, axis)
    assert ((start.moments > 0) & (start.moments < 1)).all()


@pytest.mark.parametrize("pure", [True, False])
def test_only_the_proposal_losses_reach_the_clips_and_the_head(pure):
    head = make(pure)
    dense, queries, logits, axis = example()
    dense.requires_grad_()

    def reached(value: Tensor) -> set[str]:
        tensors = {**dict(head.named_parameters()), "dense": dense}
        gradients = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
        found = zip(tensors, gradients, strict=True)
        return {name.split(".")[0] for name, gradient in found if gradient is not None and gradient.any()}

    logits.requires_grad_()
    queries.requires_grad_()
    start = head(dense, queries, logits, axis)
    weights = torch.randn(len(COUNTS), QUERIES, DIM)
    assert reached((start.queries * weights).sum()) == ({"project"} if pure else set())
    assert reached(head(dense, queries, logits, axis).reference_logits.sum()) == set()
    start = head(dense, queries, logits, axis)
    assert reached(start.moments.sum() + start.class_logits.sum()) == {"classify", "regress", "dense"}


@pytest.mark.parametrize("level", ["first", "last"])
@pytest.mark.parametrize("attention", INITIALISED)
def test_the_model_starts_from_the_proposals_on_the_chosen_dense_embedding(attention, level):
    model, stages, given = build(attention=replace(ATTENTIONS[attention], select_from=level)), [], []
    model.dense[0].register_forward_hook(lambda _, __, out: stages.append(out["post_ca_sa_ffn"]))
    model.propose.register_forward_hook(lambda _, inputs, out: given.append((inputs[0], out)))
    seen = []
    model.sparse[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2]))
    output = run(model, make_batch())
    ((dense, start),) = given
    assert torch.equal(dense, stages[0 if level == "first" else K - 1])
    queries, references = seen[0]
    assert torch.equal(queries, start.queries)
    assert torch.equal(references, start.moments)
    assert torch.equal(output.initial_references, start.moments)
    assert torch.equal(output.proposal_logits, start.class_logits)
    learned = model.queries.expand(len(SAMPLES), -1, -1)
    # The third video has one clip, so that all but its first query are learned.
    assert torch.equal(queries[2, 1:], learned[2, 1:])
    assert torch.equal(queries, learned) == (attention == "mixed_init")


@pytest.mark.parametrize("attention", INITIALISED)
def test_proposals_join_the_moment_losses_as_one_more_level(attention):
    model, batch = build(attention=attention), make_batch()
    output = run(model, batch)
    _, terms = criterion(*TERMS)(output, batch)
    without = replace(output, proposal_logits=None)
    alone = replace(
        without,
        class_logits=output.proposal_logits[:, None],
        references=output.initial_references[:, None],
    )
    (_, refined), (_, proposed) = (criterion(*TERMS)(part, batch) for part in (without, alone))
    for term in TERMS:
        extra = proposed[term] if term in ("cls", "l1", "iou") else 0
        torch.testing.assert_close(terms[term], refined[term] + extra)


@pytest.mark.parametrize("attention", INITIALISED)
def test_under_autocast_proposed_moments_stay_float32_and_train(attention):
    model, batch = build(attention=attention), make_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(model, batch)
        total, _ = criterion(*TERMS)(output, batch)
    assert output.initial_references.dtype == torch.float32
    assert output.references.dtype == torch.float32
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_other_attentions_have_no_proposals():
    output = run(build(attention="deformable"), make_batch())
    assert output.proposal_logits is None
    assert output.class_logits.shape == (len(SAMPLES), K, M)


def test_mixed_pure_and_no_initialisation_are_three_different_models():
    logits = []
    for attention in ("deformable", *INITIALISED):
        model = build(attention=attention)
        model.load_state_dict(build(attention="deformable").state_dict(), strict=False)
        logits.append(run(model, make_batch()).class_logits)
    assert all(changed(logits[i], logits[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
