"""Every loss equals a naive loop in plain Python; the contrastive losses also equal official values."""

import itertools
from dataclasses import fields, replace
from math import exp, log

import pytest
import torch
import torch.nn.functional as F

from helpers.shared_data import FROZEN
from sdst.errors import UserError
from sdst.losses.alignment import level_alignment, video_alignment
from sdst.losses.criterion import TERMS, Criterion
from sdst.losses.matcher import match
from sdst.losses.moment import (
    actionness_loss,
    averaged,
    focal_errors,
    iou_loss,
    l1_loss,
    matched_moments,
)
from sdst.losses.saliency import sampled_nce
from sdst.types import Batch, Output, Record

WEIGHTS = {"cls": 1.0, "l1": 2.0, "iou": 0.5, "act": 3.0, "sal": 0.1, "video": 0.2, "layer": 0.3}
MATCH = {"cls": 1.0, "l1": 1.0, "iou": 1.0}
TAU = 0.07
# Per sample: number of valid clips, true moments (first, last clip of each), video.
SHAPES = [(8, [(1, 3), (5, 6)], 0), (6, [(0, 5)], 1), (7, [(2, 2)], 0), (5, [], 2)]


def example(seed: int = 0, levels: int = 3, queries: int = 4) -> tuple[Output, Batch]:
    """Four samples: two of one video, one whose moment is its whole video, one without a moment."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    size, clips = len(SHAPES), max(valid for valid, _, _ in SHAPES)
    references = randn(size, levels, queries, 2).sigmoid()
    output = Output(
        class_logits=randn(size, levels, queries),
        references=references,
        actionness=randn(size, queries).sigmoid(),
        saliency=torch.zeros(size, clips),
        dense=randn(size, clips, 5),
        query=torch.zeros(size, 5),
        video=randn(size, levels, clips, 5),
        text=randn(size, levels, 5),
        initial_references=references[:, 0],
    )
    output.query = output.text[:, -1]
    moments, moment_mask = torch.zeros(size, 2, 2), torch.zeros(size, 2, dtype=torch.bool)
    video_mask, saliency = torch.zeros(size, clips, dtype=torch.bool), torch.zeros(size, clips)
    positive_clip = torch.full((size,), -1)
    for i, (valid, spans, _) in enumerate(SHAPES):
        video_mask[i, :valid] = True
        for g, (first, last) in enumerate(spans):
            moments[i, g] = torch.tensor([(first + last + 1) / 2 / valid, (last + 1 - first) / valid])
            moment_mask[i, g] = True
            saliency[i, first : last + 1] = torch.linspace(0.25, 1, last + 1 - first)
            positive_clip[i] = (first + last) // 2
    batch = Batch(
        records=[Record(i, str(video), "query", 2.0 * valid) for i, (valid, _, video) in enumerate(SHAPES)],
        video=torch.zeros(size, levels, clips, 2),
        video_mask=video_mask,
        text=torch.zeros(size, levels, 1, 2),
        text_mask=torch.ones(size, 1, dtype=torch.bool),
        num_clips=torch.tensor([float(valid) for valid, _, _ in SHAPES]),
        video_index=torch.tensor([video for _, _, video in SHAPES]),
        moments=moments,
        moment_mask=moment_mask,
        saliency=saliency,
        positive_clip=positive_clip,
        negative_clip=torch.full_like(positive_clip, -1),
    )
    return output, batch


def each_tensor(item, change):
    """Replace every tensor of an Output or Batch by ``change(name, tensor)``."""
    tensors = {f.name: getattr(item, f.name) for f in fields(item)}
    return replace(item, **{n: change(n, t) for n, t in tensors.items() if isinstance(t, torch.Tensor)})


def criterion(**changes: float) -> Criterion:
    return Criterion({**WEIGHTS, **changes}, match_weights=MATCH)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5)).item()


def minus_log_softmax(positive: float, candidates: list[float]) -> float:
    return log(sum(exp(value) for value in candidates)) - positive


def naive_iou(a: list[float], b: list[float]) -> float:
    overlap = max(0.0, min(a[0] + a[1] / 2, b[0] + b[1] / 2) - max(a[0] - a[1] / 2, b[0] - b[1] / 2))
    return overlap / (a[1] + b[1] - overlap)


def naive_terms(output: Output, batch: Batch) -> dict[str, float]:
    """All seven terms, one sample, level and query at a time."""
    size, levels, queries = output.class_logits.shape
    assignment = match(output.class_logits, output.references, batch.moments, batch.moment_mask, MATCH)
    cls = l1 = iou = act = sal = video = layer = 0.0
    for b in range(size):
        for k in range(levels):
            for m in range(queries):
                p = 1 / (1 + exp(-output.class_logits[b, k, m].item()))
                g = assignment[b, k, m].item()
                if g < 0:
                    cls += 0.75 * p**2 * -log(1 - p)
                    continue
                cls += 0.25 * (1 - p) ** 2 * -log(p)
                predicted, true = output.references[b, k, m].tolist(), batch.moments[b, g].tolist()
                l1 += abs(predicted[0] - true[0]) + abs(predicted[1] - true[1])
                iou += 1 - naive_iou(predicted, true)
        true_moments = batch.moments[b, batch.moment_mask[b]].tolist()
        for m in range(queries):
            ious = [naive_iou(output.references[b, -1, m].tolist(), true) for true in true_moments]
            act += abs(output.actionness[b, m].item() - max(ious, default=0.0)) / (size * queries)

    used = [b for b in range(size) if batch.positive_clip[b] >= 0]
    p = batch.positive_clip.tolist()

    def score(i: int, t: int) -> float:
        return cosine(output.dense[i, t], output.query[i]) / TAU

    def candidate(i: int, t: int) -> bool:
        return bool(batch.video_mask[i, t]) and bool(batch.saliency[i, t] <= batch.saliency[i, p[i]])

    def aligned(i: int, k: int, j: int, n: int) -> float:
        return cosine(output.video[i, k, p[i]], output.text[j, n]) / TAU

    for i in used:
        others = [j for j in used if j == i or batch.video_index[j] != batch.video_index[i]]
        row = [score(i, t) for t in range(batch.video_mask.shape[1]) if candidate(i, t)]
        column = [score(j, p[i]) for j in others if candidate(j, p[i])]
        sal += (minus_log_softmax(score(i, p[i]), row) + minus_log_softmax(score(i, p[i]), column)) / len(
            used
        )
        for k in range(levels):
            share, positive = 1 / (2 * levels * len(used)), aligned(i, k, i, k)
            video += share * minus_log_softmax(positive, [aligned(i, k, j, k) for j in others])
            video += share * minus_log_softmax(positive, [aligned(j, k, i, k) for j in others])
            layer += share * minus_log_softmax(positive, [aligned(i, k, i, n) for n in range(levels)])
            layer += share * minus_log_softmax(positive, [aligned(i, n, i, k) for n in range(levels)])
    count = max(1, int(batch.moment_mask.sum()))
    return dict(zip(TERMS, [cls / count, l1 / count, iou / count, act, sal, video, layer], strict=True))


@pytest.mark.parametrize(("seed", "queries"), [(0, 4), (1, 4), (2, 1)])
def test_terms_equal_naive_loops(seed, queries):
    """With one query the first sample has more true moments than queries."""
    output, batch = example(seed, queries=queries)
    total, terms = criterion()(output, batch)
    expected = naive_terms(output, batch)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(sum(WEIGHTS[name] * expected[name] for name in TERMS), rel=1e-5)


@pytest.mark.parametrize("proposals", [False, True])
def test_the_loss_of_each_level_equals_its_loss_alone(proposals):
    output, batch = example(2)
    if proposals:
        output.proposal_logits = torch.randn(output.actionness.shape)
        output.initial_references = torch.rand(output.initial_references.shape)
    by_level = criterion().by_level(output, batch)
    _, terms = criterion()(output, batch)
    levels = output.class_logits.shape[1]
    for name, values in by_level.items():
        count = {**dict.fromkeys(("cls", "l1", "iou"), levels + proposals), "video": levels}.get(name)
        assert values.shape == (() if count is None else (count,))

    def only(k: int) -> Output:
        """The output of level k alone; of the proposals for -1."""
        if k < 0:
            logits, references = output.proposal_logits[:, None], output.initial_references[:, None]
        else:
            logits, references = output.class_logits[:, k : k + 1], output.references[:, k : k + 1]
        video, text = (tensor[:, [max(k, 0)]] for tensor in (output.video, output.text))
        return replace(
            output, class_logits=logits, references=references, video=video, text=text, proposal_logits=None
        )

    for name in ("cls", "l1", "iou", "video"):
        first = levels - len(by_level[name])  # -1 with proposals
        alone = [criterion()(only(k), batch)[1][name] for k in range(first, levels)]
        torch.testing.assert_close(by_level[name], torch.stack(alone))
        together = by_level[name].mean() if name == "video" else by_level[name].sum()
        torch.testing.assert_close(terms[name], together)
    averaged = Criterion(WEIGHTS, match_weights=MATCH, over_levels="mean")(output, batch)[1]
    for name in ("cls", "l1", "iou"):
        torch.testing.assert_close(averaged[name], by_level[name].mean())
    for name in ("act", "sal", "video", "layer"):
        assert averaged[name] == terms[name]


@pytest.fixture(scope="module")
def oracle() -> dict[str, torch.Tensor]:
    """Inputs and values of R2-Tuning's losses; its weights 0.1 are already in the values."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    return load_file(FROZEN / "r2_tuning_tiny.io.safetensors")


def test_saliency_equals_the_official_value(oracle):
    video_mask = torch.arange(24) < oracle["video_lens"][:, None]
    loss = sampled_nce(
        oracle["out.video_emb"],
        oracle["out.query_emb"][:, 0],
        oracle["saliency"],
        video_mask,
        oracle["pos_clip"][:, 0],
        torch.arange(3),
    )
    assert 0.1 * loss.item() == pytest.approx(oracle["loss.loss_sal"].item(), abs=1e-6)


def test_alignment_equals_the_official_values(oracle):
    video = torch.stack([oracle[f"coll_v.{k}"] for k in range(4)], dim=1)
    text = torch.stack([oracle[f"coll_q.{k}"][:, 0] for k in range(4)], dim=1)
    positive = oracle["pos_clip"][:, 0]
    over_batch = video_alignment(video, text, positive, torch.arange(3))
    over_levels = level_alignment(video, text, positive)
    assert 0.1 * over_batch.mean().item() == pytest.approx(oracle["loss.loss_video_cal"].item(), abs=1e-6)
    assert 0.1 * over_levels.item() == pytest.approx(oracle["loss.loss_layer_cal"].item(), abs=1e-6)


def test_padding_changes_nothing():
    output, batch = example()
    _, expected = criterion()(output, batch)

    def pad(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name in {"video_mask", "moment_mask", "saliency"}:
            return F.pad(tensor, (0, 3))
        return F.pad(tensor, (0, 0, 0, 3)) if name in {"dense", "video", "moments"} else tensor

    _, padded = criterion()(each_tensor(output, pad), each_tensor(batch, pad))
    torch.testing.assert_close(padded, expected)


def test_padded_values_are_never_read():
    output, batch = example()
    _, expected = criterion()(output, batch)
    output.dense[~batch.video_mask] = 100.0
    batch.moments[~batch.moment_mask] = 0.5
    torch.testing.assert_close(criterion()(output, batch)[1], expected)


@pytest.mark.parametrize("what", ["samples", "queries"])
def test_the_order_of_samples_and_queries_changes_nothing(what):
    output, batch = example()
    _, expected = criterion()(output, batch)
    order = torch.tensor([2, 0, 3, 1])  # there are as many samples as queries
    if what == "samples":
        output, batch = (each_tensor(item, lambda _, tensor: tensor[order]) for item in (output, batch))
    else:
        output.class_logits, output.references = (
            output.class_logits[:, :, order],
            output.references[:, :, order],
        )
        output.actionness = output.actionness[:, order]
    torch.testing.assert_close(criterion()(output, batch)[1], expected)


def test_samples_of_one_video_are_not_negatives_of_each_other():
    """A clip of another query about the same video has no influence; a clip of another video has."""
    output, batch = example()
    keep = torch.tensor([0, 2])
    output, batch = (each_tensor(item, lambda _, tensor: tensor[keep]) for item in (output, batch))
    assert batch.video_index.tolist() == [0, 0]
    alone = [
        criterion()(*(each_tensor(item, lambda _, t, i=i: t[i : i + 1]) for item in (output, batch)))[1]
        for i in range(2)
    ]
    for name in ("sal", "video"):
        mean = (alone[0][name] + alone[1][name]) / 2
        torch.testing.assert_close(criterion()(output, batch)[1][name], mean)
        batch.video_index = torch.tensor([0, 1])
        assert criterion()(output, batch)[1][name] > mean + 1e-4
        batch.video_index = torch.tensor([0, 0])


def test_a_sample_without_a_positive_clip_is_left_out_of_the_contrast():
    output, batch = example()
    assert batch.positive_clip[3] == -1
    contrast = ("sal", "video", "layer")
    with_it = criterion()(output, batch)[1]
    rest = criterion()(*(each_tensor(item, lambda _, tensor: tensor[:3]) for item in (output, batch)))[1]
    torch.testing.assert_close([with_it[name] for name in contrast], [rest[name] for name in contrast])


def test_a_batch_without_positive_clips_and_moments_has_finite_gradients():
    output, batch = example()
    batch = replace(
        batch, positive_clip=torch.full((4,), -1), moment_mask=torch.zeros(4, 2, dtype=torch.bool)
    )
    output = each_tensor(output, lambda _, tensor: tensor.requires_grad_())
    total, terms = criterion()(output, batch)
    total.backward()
    assert {name for name, value in terms.items() if value == 0} == {"l1", "iou", "sal", "video", "layer"}
    for name in ("class_logits", "references", "actionness", "dense", "video", "text"):
        assert getattr(output, name).grad.isfinite().all(), name
    torch.testing.assert_close(terms["act"], output.actionness.mean())


def test_a_batch_without_moment_columns_equals_a_batch_of_masked_moments():
    output, batch = example()
    empty = replace(batch, moments=torch.zeros(4, 0, 2), moment_mask=torch.zeros(4, 0, dtype=torch.bool))
    masked = replace(batch, moment_mask=torch.zeros(4, 2, dtype=torch.bool))
    torch.testing.assert_close(criterion()(output, empty), criterion()(output, masked))


@pytest.mark.parametrize("proposals", [False, True])
def test_gradients_are_finite_and_reach_the_right_tensors(proposals):
    output, batch = example()
    if proposals:
        output.proposal_logits = output.class_logits[:, 1].clone()
    reached = {
        "cls": {"class_logits"},
        "l1": {"references"},
        "iou": {"references"},
        "act": {"actionness"},
        "sal": {"dense", "query"},
        "video": {"video", "text"},
        "layer": {"video", "text"},
    }
    if proposals:
        reached["cls"] |= {"proposal_logits"}
        reached["l1"] |= {"initial_references"}
        reached["iou"] |= {"initial_references"}
    for term, expected in reached.items():
        leaves = each_tensor(output, lambda _, tensor: tensor.clone().requires_grad_())
        criterion()(leaves, batch)[1][term].backward()
        tensors = {f.name: getattr(leaves, f.name) for f in fields(leaves)}
        grads = {name: tensor.grad for name, tensor in tensors.items() if tensor is not None}
        assert {name for name, grad in grads.items() if grad is not None and grad.any()} == expected, term
        assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)


def test_padded_clips_get_no_gradient():
    output, batch = example()
    output.dense.requires_grad_()
    criterion()(output, batch)[0].backward()
    assert not output.dense.grad[~batch.video_mask].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_are_computed_in_float32(dtype):
    output, batch = example()
    half = each_tensor(output, lambda _, tensor: tensor.to(dtype))
    expected = criterion()(each_tensor(half, lambda _, tensor: tensor.float()), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = criterion()(half, batch)
    assert result[0].dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


@pytest.mark.parametrize("off", TERMS)
def test_term_with_weight_zero_is_not_computed(off, monkeypatch):
    functions = {
        "cls": "focal_errors",
        "l1": "l1_loss",
        "iou": "iou_loss",
        "act": "actionness_loss",
        "sal": "sampled_nce",
        "video": "video_alignment",
        "layer": "level_alignment",
    }
    monkeypatch.delattr(f"sdst.losses.criterion.{functions[off]}")
    output, batch = example()
    total, terms = criterion(**{off: 0.0})(output, batch)
    assert set(terms) == set(TERMS) - {off}
    expected = naive_terms(output, batch)
    assert total.item() == pytest.approx(sum(WEIGHTS[n] * expected[n] for n in terms), rel=1e-5)


def test_matching_is_skipped_if_no_term_needs_it(monkeypatch):
    monkeypatch.delattr("sdst.losses.criterion.match")
    _, terms = criterion(cls=0, l1=0, iou=0)(*example())
    assert set(terms) == {"act", "sal", "video", "layer"}


@pytest.mark.parametrize(
    ("weights", "match_weights", "message"),
    [
        ({**WEIGHTS, "clss": 1.0}, MATCH, r"loss\.weights must .*unknown: clss, missing: none"),
        ({k: v for k, v in WEIGHTS.items() if k != "sal"}, MATCH, r"unknown: none, missing: sal"),
        ({**WEIGHTS, "act": -1.0}, MATCH, r"loss\.weights\.act must .*got -1\.0"),
        ({**WEIGHTS, "act": float("nan")}, MATCH, r"loss\.weights\.act must .*got nan"),
        ({**WEIGHTS, "act": float("inf")}, MATCH, r"loss\.weights\.act must .*got inf"),
        (dict.fromkeys(TERMS, 0.0), MATCH, "all are 0"),
        (WEIGHTS, {"cls": 1.0, "l1": 1.0}, r"loss\.match_weights must .*missing: iou"),
    ],
)
def test_invalid_weights_are_user_errors(weights, match_weights, message):
    with pytest.raises(UserError, match=message):
        Criterion(weights, match_weights=match_weights)


def test_matched_moments_and_averages_are_those_of_the_assignment():
    moments = torch.rand(3, 4, 2)
    assignment = torch.tensor([[[0, -1, 3], [2, 1, -1], [-1, -1, -1]]] * 2 + [[[-1, 1, -1]] * 3])
    dense = matched_moments(moments, assignment)
    losses = torch.rand(assignment.shape)
    counted: list[list[float]] = [[], [], []]
    for place in itertools.product(range(3), repeat=3):
        sample, level, _ = place
        if (chosen := int(assignment[place])) < 0:
            assert not dense[place].any()
        else:
            assert torch.equal(dense[place], moments[sample, chosen])
            counted[level].append(float(losses[place]))
    means = [sum(values) / len(values) for values in counted]
    assert averaged(losses, assignment >= 0).tolist() == pytest.approx(means)
    assert not averaged(losses, torch.zeros_like(losses, dtype=torch.bool)).any()
    assert not matched_moments(moments[:, :0], torch.full((3, 2, 5), -1)).any()


def test_perfect_predictions_have_zero_loss():
    moments = torch.tensor([[[0.3, 0.2], [0.7, 0.4]]])
    num_moments = torch.tensor(2)
    true = matched_moments(moments, torch.tensor([[[0, 1]]]))
    assert not l1_loss(moments[:, None], true).any()
    assert iou_loss(moments[:, None], true).abs().max() < 1e-6
    assert actionness_loss(torch.ones(1, 2), moments, moments, torch.ones(1, 2, dtype=torch.bool)) < 1e-6
    logits = torch.tensor([[[60.0, -60.0]]])
    assert (focal_errors(logits, logits > 0).sum() / num_moments) == pytest.approx(0, abs=1e-6)
