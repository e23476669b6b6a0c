"""The whole model: its equations written out level by level, its laws, and every variant of the two streams."""

import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.tiny_sdst import (
    ALL,
    ATTENTIONS,
    SAMPLES,
    K,
    M,
    assert_same_sample,
    build,
    changed,
    criterion,
    make_batch,
    rdsa,
    run,
)
from sdst.errors import UserError
from sdst.losses.criterion import TERMS
from sdst.models.attention import RDSA, AttentionOptions, Deformable, Standard, VideoMemory
from sdst.models.interpolation import ClipAxis
from sdst.models.layers import sinusoidal
from sdst.models.sdst import SDST
from sdst.models.sparse_stream import MODULES
from sdst.types import Batch

PATHS = ("ca", "sa", "rdsa")
OTHER_ATTENTIONS = [{"attention": attention} for attention in ATTENTIONS if attention != "rdsa"]
INITIALISED = ("pure_init", "mixed_init")
MODEL = build()
"""A model for tests with many examples, which do not change it."""


# ---- The equations


def by_the_equations(model: SDST, batch: Batch) -> dict[str, Tensor]:
    """Compute eq. 1-6 level by level for the default variant; other files test its parts."""
    (dense_stream,), (sparse_stream,) = model.dense, model.sparse
    axis = ClipAxis(batch.video_mask, batch.video_mask.sum(1).float(), batch.num_clips)
    clip_places = sinusoidal(torch.arange(batch.video.shape[2]), model.dim)
    words_mask = batch.text_mask.clone()
    words_mask[batch.text_mask.sum(1) > 1, 0] = False
    size = len(batch)
    dense = torch.zeros(size, batch.video.shape[2], model.dim)
    queries = model.queries.expand(size, -1, -1)
    references = model.references.sigmoid().expand(size, -1, -1)
    result: dict[str, list[Tensor]] = {"class_logits": [], "references": [], "offsets": []}
    for k in range(K):
        video, text = model.align_video(batch.video[:, k].float()), model.align_text(batch.text[:, k].float())
        gate = model.gates[k].sigmoid()
        dense = gate * video + (1 - gate) * dense
        norms = [residual.norm for residual in dense_stream.residuals]
        dense = norms[0](dense + dense_stream.cross_attention(dense + clip_places, text, text, words_mask))
        placed = dense + clip_places
        dense = norms[1](dense + dense_stream.self_attention(placed, placed, dense, batch.video_mask))
        dense = norms[2](dense + dense_stream.ffn(dense))

        norms = {name: residual.norm for name, residual in sparse_stream.residuals.items()}
        sines = [sinusoidal(2 * math.pi * references[..., side], model.dim) for side in (0, 1)]
        place = sparse_stream.position(torch.cat(sines, dim=-1))
        queries = norms["ca"](
            queries + sparse_stream.cross_attention(queries + place, text, text, batch.text_mask)
        )
        placed = queries + place
        queries = norms["sa"](queries + sparse_stream.self_attention(placed, placed, queries))
        rdsa = sparse_stream.rdsa
        memory = VideoMemory(rdsa.cnn(dense, batch.video_mask), rdsa.value(dense))
        update, offsets = rdsa(queries, place, references, memory, axis)
        queries = norms["rdsa"](queries + update)
        queries = norms["ffn"](queries + sparse_stream.ffn(queries))
        references = (references.logit() + model.regress(queries)).sigmoid()
        result["class_logits"].append(model.classify(queries).squeeze(-1))
        result["references"].append(references)
        result["offsets"].append(offsets)
    pooled = model.pool_text(text, batch.text_mask)
    return {
        **{name: torch.stack(values, dim=1) for name, values in result.items()},
        "actionness": model.actionness(dense, references, axis),
        "saliency": F.cosine_similarity(dense, pooled[:, None], dim=-1),
        "dense": dense,
    }


def test_forward_equals_the_equations_written_out_level_by_level():
    model, batch = build(), make_batch()
    got = run(model, batch, with_offsets=True)
    for name, expected in by_the_equations(model, batch).items():
        torch.testing.assert_close(getattr(got, name), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("stage", range(4))
def test_the_signal_is_the_named_stage_of_the_dense_stream(stage):
    """RDSA reads D̃, or D̃ after one, two or three residual updates."""
    signal = ("raw", "post_ca", "post_ca_sa", "post_ca_sa_ffn")[stage]
    model, seen, given_to_rdsa = build(signal=signal), [], []
    model.dense[0].register_forward_pre_hook(lambda _, inputs: seen.append([inputs[0]]))
    for residual in model.dense[0].residuals:
        residual.register_forward_hook(lambda *hook: seen[-1].append(hook[-1]))
    model.sparse[0].rdsa.value.register_forward_hook(lambda _, inputs, __: given_to_rdsa.append(inputs[0]))
    run(model, make_batch())
    expected = torch.stack([level[stage] for level in seen], dim=1)
    (got,) = given_to_rdsa
    assert got.shape[1] == K
    assert torch.equal(got, expected)


# ---- Padding, order and duplicates


@settings(max_examples=15)
@given(
    others=st.lists(st.integers(0, len(SAMPLES) - 1), max_size=3),
    extra_clips=st.integers(0, 4),
    extra_tokens=st.integers(0, 4),
    fill=st.sampled_from([0.0, 1.0, 1000.0]),
)
@pytest.mark.parametrize("sample", ALL)
def test_a_sample_alone_equals_the_same_sample_in_any_batch(sample, others, extra_clips, extra_tokens, fill):
    alone = run(MODEL, make_batch([sample]), with_offsets=True)
    together = run(MODEL, make_batch([*others, sample], extra_clips, extra_tokens, fill), with_offsets=True)
    assert_same_sample(together, len(others), alone, 0, SAMPLES[sample][0])


@pytest.mark.parametrize(
    "options",
    [
        {"sharing": False},
        {"attention": rdsa(cnn_depth=0)},
        {"signal": "raw"},
        {"places": True, "roi_context": 1.0},
        *OTHER_ATTENTIONS,
    ],
    ids=str,
)
def test_padding_changes_no_variant(options):
    model = build(**options)
    together = run(model, make_batch(extra_clips=3, extra_tokens=2, fill=100.0), with_offsets=True)
    for sample, (clips, *_) in enumerate(SAMPLES):
        alone = run(model, make_batch([sample]), with_offsets=True)
        assert_same_sample(together, sample, alone, 0, clips)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_more_padding_changes_no_loss(attention):
    model, objective = build(attention=attention), criterion(*TERMS)
    batch, padded = make_batch(), make_batch(extra_clips=5, extra_tokens=3, fill=100.0)
    _, expected = objective(run(model, batch), batch)
    _, got = objective(run(model, padded), padded)
    assert set(got) == set(TERMS)
    for term, value in expected.items():
        torch.testing.assert_close(got[term], value, atol=1e-5, rtol=1e-4)


def test_losses_of_a_batch_are_the_samples_losses_weighted_by_the_documented_normalisers():
    """cls, l1 and iou count per true moment (at least 1), act per sample, layer per sample with a positive."""
    terms = ("cls", "l1", "iou", "act", "layer")
    model, objective = build(), criterion(*terms)
    batch = make_batch()
    _, together = objective(run(model, batch), batch)
    sums, counts = Counter(), Counter()
    for sample, (_, _, _, moments) in enumerate(SAMPLES):
        alone = make_batch([sample])
        _, losses = objective(run(model, alone), alone)
        for term in terms:
            parts = {"act": 1, "layer": min(len(moments), 1)}.get(term, len(moments))
            normaliser = max(parts, 1)  # never divide by 0
            sums[term] += losses[term].item() * normaliser
            counts[term] += parts
    for term in terms:
        assert together[term].item() == pytest.approx(sums[term] / counts[term], rel=1e-4)


@given(order=st.permutations(ALL))
@settings(max_examples=8)
def test_the_order_of_the_batch_changes_neither_a_sample_nor_the_loss(order):
    objective = criterion(*TERMS)
    straight, shuffled = make_batch(), make_batch(order)
    expected, got = run(MODEL, straight, with_offsets=True), run(MODEL, shuffled, with_offsets=True)
    for place, sample in enumerate(order):
        assert_same_sample(got, place, expected, sample, SAMPLES[sample][0])
    torch.testing.assert_close(
        objective(got, shuffled)[0], objective(expected, straight)[0], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_one_video_for_all_queries_is_aligned_once_except_in_training(training, places):
    """Copies of the video give the same output and gradients; in training each query has its own dropout."""
    batch = make_batch([0, 1, 0])
    assert batch.text.shape[0] == 3
    given, aligned = {"video": batch.video[:1], "video_mask": batch.video_mask[[0, 0, 0]]}, []
    results = []
    for video in (given["video"], given["video"].expand(3, -1, -1, -1)):
        model = build(places=places).train(training)
        model.align_video.register_forward_hook(lambda _, inputs, output: aligned.append(output))
        torch.manual_seed(1)
        output = model(video, given["video_mask"], batch.text, batch.text_mask, torch.full((3,), 7.0))
        (output.class_logits.sum() + output.references.sum() + output.saliency.sum()).backward()
        results.append((output, {name: p.grad for name, p in model.named_parameters()}))
    (shared, gradients), (repeated, expected) = results
    assert [len(rows) for rows in aligned] == ([3, 3] if training else [1, 3])
    assert training == (not torch.equal(aligned[1][0], aligned[1][1]))
    for sample in range(3):
        assert_same_sample(shared, sample, repeated, sample, 7)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_a_sample_given_twice_gets_the_same_output_twice():
    output = run(build(), make_batch([1, 0, 1]), with_offsets=True)
    assert_same_sample(output, 0, output, 2, SAMPLES[1][0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"modules": ["rdsa", "sa", "ca", "ffn"]},
        {"attention": "standard"},
        {"attention": "deformable"},
    ],
    ids=str,
)
def test_permuted_queries_give_permuted_outputs(options):
    model, batch, order = build(**options), make_batch(), torch.tensor([2, 0, 3, 1])
    before = run(model, batch, with_offsets=True)
    model.queries.data = model.queries[order]
    model.references.data = model.references[order]
    after = run(model, batch, with_offsets=True)
    for name in ("class_logits", "references", "offsets"):
        if getattr(before, name) is not None:
            torch.testing.assert_close(
                getattr(after, name), getattr(before, name)[:, :, order], atol=1e-5, rtol=1e-4
            )
    for name in ("actionness", "initial_references"):
        torch.testing.assert_close(
            getattr(after, name), getattr(before, name)[:, order], atol=1e-5, rtol=1e-4
        )
    torch.testing.assert_close(after.saliency, before.saliency)


def test_forward_does_not_change_its_inputs():
    batch, again = make_batch(), make_batch()
    run(build(), batch)
    for name in ("video", "video_mask", "text", "text_mask", "num_clips"):
        assert torch.equal(getattr(batch, name), getattr(again, name))


# ---- Gradients


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sharing": False},
        {"stop_reference_gradient": False},
        {"signal": "raw"},
        {"places": True},
        *OTHER_ATTENTIONS,
        {"attention": "pure_init", "levels": 1},
    ],
    ids=str,
)
def test_every_parameter_gets_a_gradient_from_the_objective(options):
    model, batch = build(dropout=0.0, drop_path=0.0, **options).train(), make_batch()
    batch.video, batch.text = batch.video[:, : model.levels], batch.text[:, : model.levels]
    total, _ = criterion(*TERMS)(run(model, batch), batch)
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    # A key's bias adds the same to all scores of a query, which does not change the softmax.
    idle = {name for name, g in gradients.items() if g.abs().max() < 1e-7}
    assert all(name.endswith("attention.key.bias") for name in idle)


def test_stopping_the_gradient_at_a_level_changes_gradients_of_earlier_levels_only():
    stopped, flowing = (build(sharing=False, stop_reference_gradient=stop) for stop in (True, False))
    batch = make_batch()
    outputs = [run(model, batch) for model in (stopped, flowing)]
    assert torch.equal(outputs[0].references, outputs[1].references)
    for output in outputs:
        (output.references[:, -1] * torch.tensor([1.0, -0.5])).sum().backward()
    for level in range(K):
        pairs = zip(stopped.sparse[level].parameters(), flowing.sparse[level].parameters(), strict=True)
        differ = [changed(a.grad, b.grad) for a, b in pairs if a.grad is not None]
        assert any(differ) == (level < K - 1)


@pytest.mark.parametrize("stop", [True, False])
def test_the_gradient_stop_hides_the_initial_references_from_later_levels_without_another_path(stop):
    """With the feed-forward network alone, queries do not depend on references."""
    for level in range(K):
        model = build(modules=["ffn"], stop_reference_gradient=stop)
        run(model, make_batch()).references[:, level].sum().backward()
        reached = model.references.grad is not None and bool(model.references.grad.any())
        assert reached == (level == 0 or not stop)


# ---- The start of training


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_references_start_as_a_fixed_point_and_classes_at_the_prior(attention):
    model, batch = build(trained=False, attention=attention), make_batch()
    output = run(model, batch)
    for level in range(K):
        torch.testing.assert_close(output.references[:, level], output.initial_references)
    if attention not in INITIALISED:
        learned = model.references.sigmoid().expand(len(batch), -1, -1)
        torch.testing.assert_close(output.initial_references, learned)
    assert ((output.initial_references > 0) & (output.initial_references < 1)).all()
    assert model.classify.bias.sigmoid().item() == pytest.approx(0.01)


def test_the_gates_start_as_an_equal_mix_and_set_the_share_of_the_new_level():
    model, seen = build(trained=False), []
    model.dense[0].register_forward_hook(lambda _, inputs, stages: seen.append((inputs[0], stages)))
    output = run(model, make_batch())
    for level in range(K):
        before = seen[level - 1][1]["post_ca_sa_ffn"] if level else 0
        torch.testing.assert_close(seen[level][0], (output.video[:, level] + before) / 2)
    model.gates.data[1] = 50.0  # all of level 2 is its own clips
    model.gates.data[2] = -50.0  # nothing of level 3 is
    seen.clear()
    output = run(model, make_batch())
    torch.testing.assert_close(seen[1][0], output.video[:, 1])
    torch.testing.assert_close(seen[2][0], seen[1][1]["post_ca_sa_ffn"])


def test_dropout_and_drop_path_act_in_training_only():
    model, batch = build(), make_batch()
    first, second = run(model, batch), run(model, batch)
    assert torch.equal(first.class_logits, second.class_logits)
    for options in ({"dropout": 0.5, "drop_path": 0.0}, {"dropout": 0.0, "drop_path": 0.5}):
        model = build(**options).train()
        assert changed(run(model, batch).class_logits, run(model, batch).class_logits)


# ---- Variants


def test_unshared_weights_that_are_equal_give_the_output_of_shared_ones():
    shared, unshared, batch = build(), build(seed=1, sharing=False), make_batch()
    weights = {}
    for name, value in shared.state_dict().items():
        stream, _, rest = name.partition(".0.")
        copies = K if stream in ("dense", "sparse") else 0
        weights.update({f"{stream}.{k}.{rest}": value for k in range(copies)} if copies else {name: value})
    unshared.load_state_dict(weights)
    expected, got = run(shared, batch), run(unshared, batch)
    for sample, (clips, *_) in enumerate(SAMPLES):
        assert_same_sample(got, sample, expected, sample, clips)


def test_unshared_weights_belong_to_their_level():
    model, batch = build(sharing=False), make_batch()
    before = run(model, batch)
    for parameter in model.sparse[1].parameters():
        parameter.data += 0.3
    after = run(model, batch)
    assert not changed(after.class_logits[:, 0], before.class_logits[:, 0])
    assert changed(after.class_logits[:, 1], before.class_logits[:, 1])
    assert not changed(after.dense, before.dense)


SUBSETS = [c for n in range(1, 5) for c in itertools.combinations(MODULES, n)]


@pytest.mark.parametrize("modules", SUBSETS, ids="-".join)
def test_queries_depend_on_a_source_only_through_its_module(modules):
    """Queries read the text only through ca, other queries only through sa, the video only through rdsa."""
    model, batch = build(modules=modules), make_batch([0, 1])

    def decoded() -> tuple[Tensor, Tensor]:
        output = run(model, batch, with_offsets=True)
        assert (output.offsets is None) == ("rdsa" not in modules)
        return output.class_logits, output.references

    def moved(before: tuple[Tensor, Tensor], query: int) -> bool:
        return any(changed(a[:, :, query], b[:, :, query]) for a, b in zip(before, decoded(), strict=True))

    before = decoded()
    video, batch.video = batch.video, batch.video.flip(0)
    assert moved(before, 1) == ("rdsa" in modules)
    batch.video = video
    # RDSA reads clips that already depend on the words.
    text, batch.text = batch.text, -batch.text
    assert moved(before, 1) == ("ca" in modules or "rdsa" in modules)
    batch.text = text
    model.queries.data[0] *= -1
    assert moved(before, 0)
    assert moved(before, 1) == ("sa" in modules)


@pytest.mark.parametrize("order", list(itertools.permutations(PATHS)), ids="-".join)
def test_modules_run_in_the_given_order(order):
    model, calls = build(modules=[*order, "ffn"]), []
    stream = model.sparse[0]
    parts = {
        "ca": stream.cross_attention,
        "sa": stream.self_attention,
        "rdsa": stream.rdsa,
        "ffn": stream.ffn,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    run(model, make_batch())
    assert calls == [*order, "ffn"] * K


def test_only_the_order_of_the_paper_is_the_default():
    default, batch = build(), make_batch()
    expected = run(default, batch).class_logits
    for order in itertools.permutations(PATHS):
        model = build(seed=1, modules=[*order, "ffn"])
        model.load_state_dict(default.state_dict())
        got = run(model, batch).class_logits
        assert torch.equal(got, expected) == (order == PATHS)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": rdsa(sampling=["c"])},
        {"attention": rdsa(sampling=["l", "r"])},
        {"attention": rdsa(cnn_depth=0)},
        {"attention": rdsa(num_points=1)},
        {"attention": rdsa(spread="line")},
        {"roi_bins": 2},
        {"roi_context": 1.0},
        {"places": True},
        {"references": "random"},
    ],
    ids=str,
)
def test_variants_of_rdsa_and_actionness_keep_the_shape_of_the_output(options):
    batch = make_batch()
    got, expected = run(build(**options), batch), run(build(), batch)
    for name in ("class_logits", "references", "actionness"):
        assert getattr(got, name).shape == getattr(expected, name).shape
        assert getattr(got, name).isfinite().all()
    assert changed(got.actionness, expected.actionness)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dim": 18, "heads": 4}, "model.dim"),
        ({"dim": 15, "heads": 5}, "model.dim"),
        ({"signal": "post_sa"}, "model.signal"),
        ({"roi_bins": 0}, "model.roi_bins"),
        ({"roi_context": 0.0}, "model.roi_context"),
        ({"references": "even"}, "model.references must be one of spread, random, got 'even'"),
        ({"denoising_groups": -1}, "model.denoising_groups"),
        ({"denoising_groups": 1, "denoising_noise": 0.0}, "model.denoising_noise"),
        ({"denoising_noise": 0.5}, "model.denoising_noise has no effect"),
        ({"num_queries": 0}, "model.num_queries"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"drop_path": -0.1}, "model.drop_path"),
        ({"modules": []}, "model.modules"),
        ({"modules": ["ca", "ca"]}, "model.modules"),
        ({"modules": ["ca", "cnn"]}, "model.modules"),
        ({"attention": Standard(), "modules": ["ca", "sa", "ffn"]}, "model.attention=standard"),
        ({"attention": Deformable(), "modules": ["ca", "sa", "ffn"]}, "model.attention=deformable"),
        ({"attention": rdsa(cnn_depth=0), "modules": ["ca"]}, "model.attention.cnn_depth=0"),
        ({"attention": rdsa(sampling=["c"]), "modules": ["ca"]}, "model.attention.sampling"),
        ({"signal": "raw", "modules": ["ca"]}, "model.signal=raw"),
    ],
)
def test_the_message_names_an_invalid_option(options, named):
    with pytest.raises(UserError, match=named):
        build(**options)


def test_an_attention_by_its_former_name_is_refused():
    with pytest.raises(
        UserError, match=r"model\.attention must .*got 'standard'; choose it with attention=NAME"
    ):
        SDST(6, 5, levels=1, num_queries=1, attention="standard")


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (RDSA, {"sampling": []}, "model.attention.sampling"),
        (RDSA, {"sampling": ["l", "x"]}, "model.attention.sampling"),
        (RDSA, {"sampling": ["l", "l"]}, "model.attention.sampling"),
        (RDSA, {"num_points": 0}, "model.attention.num_points"),
        (RDSA, {"cnn_depth": -1}, "model.attention.cnn_depth"),
        (RDSA, {"query_dim": 0}, "model.attention.query_dim"),
        (RDSA, {"spread": "even"}, "model.attention.spread"),
        (Deformable, {"num_points": 0}, "model.attention.num_points"),
        (Deformable, {"select_from": "second"}, "model.attention.select_from"),
        (Deformable, {"start": "pur"}, "model.attention.start must be one of .*pure.*got 'pur'"),
    ],
)
def test_the_message_names_an_invalid_option_of_an_attention(kind, options, named):
    with pytest.raises(UserError, match=named):
        kind(**options)


@pytest.mark.parametrize("which", ["video", "text"])
def test_features_with_a_different_number_of_levels_are_refused(which):
    batch = make_batch()
    setattr(batch, which, getattr(batch, which)[:, 1:])
    with pytest.raises(ValueError, match=f"{which} has 2 levels .* 3"):
        run(build(), batch)


# ---- Inputs at the edges


def test_cls_reaches_the_sparse_stream_but_not_the_dense_stream():
    model, batch = build(), make_batch([0, 1])
    before = run(model, batch)
    batch.text[:, :, 0] += 3
    after = run(model, batch)
    assert torch.equal(after.dense, before.dense)
    assert changed(after.class_logits, before.class_logits)
    assert changed(after.text, before.text)


def test_both_streams_read_a_query_of_one_token():
    model, batch = build(), make_batch([2])
    before = run(model, batch)
    batch.text[:, :, 0] *= -1
    after = run(model, batch)
    assert changed(after.dense, before.dense)
    assert changed(after.class_logits, before.class_logits)


def test_training_works_with_a_video_of_one_clip():
    model, batch = build().train(), make_batch([2, 2])
    output = run(model, batch)
    total, _ = criterion(*TERMS)(output, batch)
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert ((output.references > 0) & (output.references < 1)).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_offsets_are_returned_on_request_one_per_level_query_and_head(attention):
    model, batch = build(attention=attention), make_batch()
    assert run(model, batch).offsets is None
    offsets = run(model, batch, with_offsets=True).offsets
    assert offsets is None if attention == "standard" else offsets.shape == (len(SAMPLES), K, M, 4)


# ---- Size and execution


@pytest.mark.parametrize(("sharing", "low", "high"), [(True, 4.0e6, 4.4e6), (False, 12.0e6, 13.2e6)])
def test_parameters_stay_within_the_budget_at_the_widths_of_the_paper(sharing, low, high):
    with torch.device("meta"):
        model = SDST(768, 1024, levels=4, num_queries=30, sharing=sharing)
    assert low <= sum(p.numel() for p in model.parameters() if p.requires_grad) <= high


def test_the_default_has_its_exact_number_of_parameters_and_other_attentions_add_or_lack_only_their_own():
    def count(attention: AttentionOptions) -> int:
        with torch.device("meta"):
            model = SDST(768, 1024, levels=4, num_queries=30, attention=attention)
        return sum(p.numel() for p in model.parameters())

    starts = {"deformable": "learned", "pure_init": "pure", "mixed_init": "mixed"}
    counts = {name: count(Deformable(start=start)) for name, start in starts.items()}
    counts |= {"rdsa": count(RDSA()), "standard": count(Standard())}
    assert counts["rdsa"] == 4_161_092
    d, points = 256, 8 * 4
    cnn, query = 2 * (3 * d * d + d + 2 * d), 3 * d * 64 + 64
    assert counts["rdsa"] - counts["deformable"] == cnn + query - 2 * (d - 64) * points
    assert counts["deformable"] - counts["standard"] == 2 * (d + 1) * points - 2 * (d * d + d)
    head = d + 1 + 2 * (d * d + d) + 2 * d + 2
    assert counts["mixed_init"] - counts["deformable"] == head
    assert counts["pure_init"] - counts["mixed_init"] == d * d + d + 2 * d


@pytest.mark.parametrize("attention", ["rdsa", "standard", "deformable"])
def test_under_autocast_positions_and_losses_stay_float32_and_outputs_close(attention):
    model, batch = build(attention=attention), make_batch()
    expected = run(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(model, batch)
        total, _ = criterion(*TERMS)(output, batch)
    assert output.class_logits.dtype == torch.bfloat16
    for name in ("references", "actionness", "saliency", "initial_references"):
        assert getattr(output, name).dtype == torch.float32
        torch.testing.assert_close(getattr(output, name), getattr(expected, name), atol=0.1, rtol=0)
    assert total.dtype == torch.float32
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_recomputing_activations_gives_the_same_gradients_without_keeping_them(attention):
    batch, gradients, kept = make_batch(), [], []
    for recompute in (False, True):
        model = build(attention=attention, dropout=0.5, drop_path=0.25).train()
        model.recompute = recompute
        torch.manual_seed(1)  # for dropout
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total, _ = criterion(*TERMS)(run(model, batch), batch)
        total.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        kept.append(sum(sizes.values()))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["standard", "deformable", "mixed_init"])
def test_compiled_equals_eager(attention):
    model, batch = build(levels=1, attention=attention), make_batch()
    batch.video, batch.text = batch.video[:, :1], batch.text[:, :1]
    expected = run(model, batch, with_offsets=True)
    got = run(torch.compile(model, backend="eager"), batch, with_offsets=True)
    for sample, (clips, *_) in enumerate(SAMPLES):
        assert_same_sample(got, sample, expected, sample, clips)


def test_a_diverged_model_raises_in_the_matcher_and_not_in_an_index():
    model, batch = build(), make_batch()
    with torch.no_grad():
        model.regress[-1].bias.fill_(math.nan)
    output = run(model, batch)
    with pytest.raises(FloatingPointError, match="not finite"):
        criterion("cls", "l1")(output, batch)
