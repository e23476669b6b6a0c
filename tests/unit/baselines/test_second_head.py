"""SG-DETR's second head: assignment, losses and collaborative queries equal naive loops; without it nothing changes."""

from dataclasses import replace
from math import exp, log
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from helpers.composed import composed
from helpers.tiny_baselines import SAMPLES, build, configured, make_batch, run
from sdst.baselines.detr.atss import SIZES, STRIDES, assign_anchors, centreness, level_sizes
from sdst.baselines.detr.collaborative import COUNT, choose
from sdst.baselines.detr.decoder import LEAST
from sdst.baselines.detr.proposals import Level
from sdst.baselines.sg_detr import SECOND_WEIGHTS, SGDETR, GuidedCriterion, GuidedOutput
from sdst.config.stored import with_first_names
from sdst.spans import aligned_giou, cw_to_se
from sdst.types import Batch

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
SECOND = ("second_logits", "second_references", "second_centre_logits", "second_anchors")


def criterion() -> GuidedCriterion:
    loss = configured("sg_detr")["loss"]
    return GuidedCriterion(loss["weights"], match_weights=loss["match_weights"], alpha=None)


def second(**options: Any) -> SGDETR:
    model = build("sg_detr", second_head=True, **options)
    assert isinstance(model, SGDETR)
    return model


def trained(batch: Batch) -> tuple[SGDETR, GuidedOutput]:
    model = second().train()
    output = model(*batch.inputs(), labels=batch)
    assert isinstance(output, GuidedOutput)
    return model, output


# --- the option ---


@torch.no_grad()
def test_without_the_head_nothing_changes() -> None:
    plain, more = build("sg_detr"), second()
    own = {name for name in more.state_dict() if name.startswith(("second_head.", "collaborate."))}
    assert own
    assert more.state_dict().keys() - own == plain.state_dict().keys()
    more.load_state_dict(plain.state_dict(), strict=False)
    batch = make_batch(1)
    before, after = run(plain, batch), run(more, batch)
    for name in ("class_logits", "references", "saliency", "actionness"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert before.second_logits is None


def test_the_identity_of_a_run_without_the_head_is_that_of_before() -> None:
    values: Any = OmegaConf.to_container(composed("model=sg_detr", "run_dir=x"), resolve=True)
    assert values["model"]["second_head"] is False
    assert "second_head" not in with_first_names(values)["model"]
    values["model"]["second_head"] = True
    assert with_first_names(values)["model"]["second_head"] is True


@torch.no_grad()
def test_other_parameters_start_the_same_with_and_without_the_head() -> None:
    def first_values(second_head: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return SGDETR(6, 5, 1, dim=16, heads=2, second_head=second_head).state_dict()

    plain, more = first_values(False), first_values(True)
    assert all(torch.equal(more[name], value) for name, value in plain.items())


def test_every_parameter_of_the_head_learns() -> None:
    batch = make_batch(1)
    model, output = trained(batch)
    total, terms = criterion()(output, batch)
    total.backward()
    assert all(term.isfinite() for term in terms.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if name.startswith(("second_head.", "collaborate.")):
            assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_a_sample_alone_equals_the_same_sample_in_any_padded_batch() -> None:
    model, order = second(), (2, 0, 3, 1)
    together = run(model, make_batch(1, order, extra_clips=10, extra_tokens=2))
    for j, i in enumerate(order):
        alone = run(model, make_batch(1, (i,)))
        for name in SECOND:
            ours, theirs = (
                getattr(output, name)[k][output.second_mask[k]] for output, k in ((together, j), (alone, 0))
            )
            torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("sample", [2, 3])
@torch.no_grad()
def test_padding_does_not_change_the_losses_of_one_sample(sample: int) -> None:
    """All points of these short videos are collaborative queries, so none is left to chance."""
    assert sum(level_sizes(SAMPLES[sample][0])) < COUNT
    model, losses = second().train(), criterion()
    got, expected = (
        losses.by_level(model(*batch.inputs(), labels=batch), batch)
        for batch in (make_batch(1, (sample,), extra_clips=n, extra_tokens=n) for n in (7, 0))
    )
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, **CLOSE)


@torch.no_grad()
def test_moments_of_a_cut_video_are_those_of_its_beginning() -> None:
    model, batch = second(max_clips=12, max_words=3).train(), make_batch(1, (0,))
    batch.moments, batch.moment_mask = batch.moments[:, :2], batch.moment_mask[:, :2]  # within 12 clips
    begin = replace(
        batch,
        video=batch.video[:, :, :12],
        video_mask=batch.video_mask[:, :12],
        text=batch.text[:, :, :3],
        text_mask=batch.text_mask[:, :3],
        num_clips=torch.tensor([12.0]),
        moments=2 * batch.moments,
    )
    outputs = []
    for given in (batch, begin):
        torch.manual_seed(0)
        outputs.append(model(*given.inputs(), labels=given))
    whole, cut = outputs
    assert torch.equal(whole.collaborative_points, cut.collaborative_points)
    for name in ("second_references", "second_anchors", "collaborative_references"):
        torch.testing.assert_close(getattr(whole, name), getattr(cut, name) / 2)
    # A moment in the second half is assigned no point.
    late = replace(batch, moments=torch.tensor([[[0.75, 0.2]]]), moment_mask=torch.tensor([[True]]))
    assert (assign_anchors(whole.second_anchors, whole.second_mask, 12, late) == -1).all()


# --- the head ---


@torch.no_grad()
def test_the_head_equals_its_definition_on_the_points_that_exist() -> None:
    head = second().second_head
    assert head is not None
    torch.manual_seed(0)
    clips = torch.tensor([7, 4])
    masks = [torch.arange(14) < 2 * clips[:, None], torch.arange(7) < clips[:, None]]
    masks += [torch.arange(4) < torch.tensor([[4], [2]]), torch.arange(2) < torch.tensor([[2], [1]])]
    levels = [Level(torch.randn(2, mask.shape[1], 16), mask) for mask in masks]
    got = head(levels, masks[1])

    def tower(part: Any, points: Tensor) -> Tensor:
        for conv, norm in zip(part.convs, part.norms, strict=True):
            points = F.relu(norm(conv(points.T[None])[0].T))
        return points.T[None]

    for b in range(2):
        rows = []
        for k, level in enumerate(levels):
            points = level.points[b, level.mask[b]]
            regressed = tower(head.regress, points)
            moves = head.scales[k] * head.read_span(regressed)[0].T
            logits, centre = head.read_class(tower(head.classify, points)), head.read_centre(regressed)
            for i, (shift, ratio) in enumerate(moves.tolist()):
                middle, size = (i + 0.5) * STRIDES[k], SIZES[k]
                width = max(0.0, exp(min(ratio / 5, log(62.5))) * size - 1)
                span = (middle + shift / 10 * size, width)
                row = [*span, middle, size - 1]
                rows.append([logits[0, 0, i], centre[0, 0, i], *(float(value / clips[b]) for value in row)])
        fields = [got.logits[b, :, None], got.centre_logits[b, :, None], got.references[b], got.anchors[b]]
        torch.testing.assert_close(torch.cat(fields, dim=-1)[got.mask[b]], torch.tensor(rows), **CLOSE)


def naive_assignment(output: GuidedOutput, batch: Batch, clips: int) -> list[list[int]]:
    """The textbook loop over samples, moments and levels, in clips."""
    assert output.second_anchors is not None
    assert output.second_mask is not None
    result = []
    for b in range(len(batch)):
        n = batch.num_clips[b]
        anchors, moments = output.second_anchors[b] * n, batch.moments[b] * n
        found: list[tuple[float, int]] = [(-1.0, -1)] * len(anchors)
        for g in batch.moment_mask[b].nonzero().flatten().tolist():
            start, end = cw_to_se(moments[g]).tolist()
            candidates, first = [], 0
            for size in level_sizes(clips):
                rows = [a for a in range(first, first + size) if output.second_mask[b, a]]
                distance = {a: float((anchors[a, 0] - moments[g, 0]).abs()) for a in rows}
                candidates += sorted(rows, key=distance.__getitem__)[:12]
                first += size
            iou = {}
            for a in candidates:
                left, right = cw_to_se(anchors[a]).tolist()
                inter = max(0.0, min(end, right) - max(start, left))
                iou[a] = inter / (right - left + end - start - inter)
            least = fmean(iou.values()) + stdev(iou.values())
            for a in candidates:
                if (
                    iou[a] >= least
                    and start + 1e-3 < float(anchors[a, 0]) < end - 1e-3
                    and iou[a] > found[a][0]
                ):
                    found[a] = (iou[a], g)
        result.append([g for _, g in found])
    return result


@torch.no_grad()
def test_assignment_equals_a_loop() -> None:
    model, batch = second(), make_batch(1, extra_clips=5)
    output = run(model, batch)
    assert isinstance(output, GuidedOutput)
    assert output.second_anchors is not None
    assert output.second_mask is not None
    generator = torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for _ in range(8):
        bounds = torch.rand(4, 3, 2, generator=generator).sort(dim=-1).values
        batch.moments = torch.stack([bounds.mean(dim=-1), bounds[..., 1] - bounds[..., 0]], dim=-1)
        got = assign_anchors(output.second_anchors, output.second_mask, 29, batch).tolist()
        assert got == naive_assignment(output, batch, 29)
        seen |= {g for row in got for g in row}
    assert seen == {-1, 0, 1, 2}
    none = replace(batch, moments=batch.moments[:, :0], moment_mask=batch.moment_mask[:, :0])
    assert (assign_anchors(output.second_anchors, output.second_mask, 29, none) == -1).all()


def test_centreness_is_one_in_the_middle_and_zero_at_the_bounds() -> None:
    anchors = torch.tensor([[0.5, 0.1], [0.3, 0.9], [0.25, 0.1]])
    moments = torch.tensor([[0.5, 0.4], [0.5, 0.4], [0.3, 0.2]])
    torch.testing.assert_close(centreness(anchors, moments), torch.tensor([1.0, 0.0, 1 / 3]), **CLOSE)


# --- losses ---


def smooth(distance: float) -> float:
    return 0.5 * distance**2 if abs(distance) < 1 else abs(distance) - 0.5


@torch.no_grad()
def test_losses_of_both_heads_and_of_collaborative_queries_equal_loops() -> None:
    batch = make_batch(1)
    _, output = trained(batch)
    assignment = naive_assignment(output, batch, 24)
    focal, share, l1, iou, act = [], [], [], [], []
    for b, a in output.second_mask.nonzero().tolist():
        g, logit = assignment[b][a], output.second_logits[b, a]
        p = float(logit.sigmoid())
        focal.append(-0.25 * (1 - p) ** 2 * log(p) if g >= 0 else -0.75 * p**2 * log(1 - p))
        if g < 0:
            continue
        predicted, true = cw_to_se(output.second_references[b, a]), cw_to_se(batch.moments[b, g])
        start, end = true.tolist()
        middle = float(output.second_anchors[b, a, 0])
        target = min(middle - start, end - middle) / max(middle - start, end - middle)
        share.append(target)
        l1.append(target * sum(map(smooth, (float(batch.num_clips[b]) * (predicted - true)).tolist())))
        iou.append(target * (1 - float(aligned_giou(predicted, true))))
        c = float(output.second_centre_logits[b, a].sigmoid())
        act.append(-target * log(c) - (1 - target) * log(1 - c))
    expected = {
        "cls": sum(focal) / len(act),
        "l1": sum(l1) / sum(share),
        "iou": sum(iou) / sum(share),
        "act": sum(act) / len(act),
    }
    terms = criterion().by_level(output, batch)
    without = criterion().by_level(replace(output, second_logits=None), batch)
    for name, value in expected.items():
        assert terms[name].shape == (5,)
        assert float(terms[name][4]) == pytest.approx(SECOND_WEIGHTS[name] * value, rel=1e-3), name
    assert torch.equal(terms["act"][:4], without["act"])

    for k in range(3):
        classes, distances, overlaps = [], [], []
        for b, row in enumerate(output.collaborative_points.tolist()):
            for n, a in enumerate(row):
                if not output.second_mask[b, a]:
                    continue
                g, logit = assignment[b][a], output.collaborative_logits[b, k, n]
                classes.append(-float(F.logsigmoid(logit if g >= 0 else -logit)))
                if g < 0:
                    continue
                predicted = cw_to_se(output.collaborative_references[b, k, n])
                true = cw_to_se(batch.moments[b, g])
                distances += (predicted - true).abs().tolist()
                overlaps.append(1 - float(aligned_giou(predicted, true)))
        for name, values in {"cls": classes, "l1": distances, "iou": overlaps}.items():
            added = float(terms[name][k + 1] - without[name][k + 1])
            assert added == pytest.approx(0.5 * fmean(values), rel=1e-3), name
    assert torch.equal(terms["cls"][0], without["cls"][0])  # the proposals' level


# --- collaborative queries ---


def test_points_with_a_moment_are_chosen_first_and_missing_points_last() -> None:
    torch.manual_seed(0)
    assignment, mask = torch.full((2, 60), -1), torch.ones(2, 60).bool()
    assignment[0, [3, 50, 59]], mask[1, 20:] = torch.tensor([0, 1, 0]), False
    chosen = choose(assignment, mask)
    assert chosen.shape == (2, COUNT)
    assert sorted(chosen[0, :3].tolist()) == [3, 50, 59]
    assert sorted(chosen[1, :20].tolist()) == list(range(20))
    assert chosen[0].unique().numel() == COUNT
    assert not torch.equal(chosen, choose(assignment, mask))


@torch.no_grad()
def test_other_queries_do_not_see_collaborative_ones() -> None:
    """Without dropout, training gives them the moments of evaluation."""
    batch = make_batch(1)
    model, output = trained(batch)
    plain = run(model.eval(), batch)
    torch.testing.assert_close(output.class_logits, plain.class_logits, **CLOSE)
    torch.testing.assert_close(output.references, plain.references, **CLOSE)
    assert output.collaborative_logits is not None
    assert plain.collaborative_logits is None


@torch.no_grad()
def test_collaborative_queries_start_at_their_anchors() -> None:
    batch = make_batch(1)
    model, output = trained(batch)
    given = model.inputs(*batch.inputs()[:4])
    levels = model.pyramid(output.dense, given.clip_mask)
    found = model.second_head(levels, given.clip_mask)
    queries, points = model.collaborate(levels, found, torch.full_like(found.logits, -1))
    for b, n in ((0, 0), (1, 7), (2, 3)):
        anchor = found.anchors[b, points[b, n]].clamp(LEAST, 1 - LEAST)
        torch.testing.assert_close(queries.spans[b, n], anchor)
        embedding = torch.cat([level.points for level in levels], dim=1)[b, points[b, n]]
        expected = model.collaborate.norm(model.collaborate.map(embedding))
        torch.testing.assert_close(queries.content[b, n], expected, **CLOSE)
