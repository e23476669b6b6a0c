"""Laws of all models with R2-Tuning's heads; their points and losses equal naive loops."""

from functools import cache
from math import inf

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.tiny_baselines import MODELS, SAMPLES, build, configured, make_batch, run
from sdst.baselines.pyramid import Pyramid, upsample
from sdst.config.schema import Decoding
from sdst.errors import UserError
from sdst.losses.criterion import Criterion
from sdst.losses.points import assign_points, boundary_loss
from sdst.models.decoding import decode
from sdst.sweeps.tables import find_experiment, number
from sdst.training.checkpoint import build_model
from sdst.types import Anchors, Batch, Output

RAW = Decoding("none", sigma=0.5, iou_threshold=0.0, round_to=None, max_moments=None, score="class")


@cache
def levels(name: str) -> int:
    return int(configured(name)["levels"]["count"])


def criterion(name: str) -> Criterion:
    loss = configured(name)["loss"]
    return Criterion(loss["weights"], match_weights=loss["match_weights"], alpha=loss["alpha"])


def assert_same(ours: Output, i: int, theirs: Output, j: int, clips: int) -> None:
    """Check that sample i of one output equals sample j of another, at all valid clips and points."""
    points = [output.anchors.mask[k] for output, k in ((ours, i), (theirs, j))]
    for name in ("class_logits", "references"):
        a, b = (
            getattr(output, name)[k, 0][mask]
            for output, k, mask in zip((ours, theirs), (i, j), points, strict=True)
        )
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    for name in ("saliency", "dense"):
        torch.testing.assert_close(
            getattr(ours, name)[i, :clips], getattr(theirs, name)[j, :clips], atol=1e-5, rtol=1e-4
        )
    for name in ("query", "text"):
        torch.testing.assert_close(getattr(ours, name)[i], getattr(theirs, name)[j], atol=1e-5, rtol=1e-4)


# --- the models ---


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_sample_alone_equals_the_same_sample_in_any_batch(name: str) -> None:
    model = build(name)
    batch = make_batch(levels(name), extra_clips=10, extra_tokens=2)
    together = run(model, batch)
    predictions, loss = decode(together, batch, RAW), criterion(name)
    for i, (clips, _, _) in enumerate(SAMPLES):
        one = make_batch(levels(name), (i,))
        alone = run(model, one)
        assert_same(together, i, alone, 0, clips)
        (prediction,) = decode(alone, one, RAW)
        torch.testing.assert_close(
            torch.tensor(predictions[i].windows), torch.tensor(prediction.windows), atol=1e-4, rtol=1e-4
        )
        assert len(prediction.windows) == sum(clips // stride for stride in (1, 2, 4, 8))
    total, _ = loss(run(model, make_batch(levels(name))), make_batch(levels(name)))
    torch.testing.assert_close(loss(together, batch)[0], total, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_one_video_for_all_queries_gives_the_same_output_as_copies_of_it(name: str) -> None:
    model, batch = build(name), make_batch(levels(name))
    clips, rows = SAMPLES[0][0], len(batch)
    mask, extents = batch.video_mask[:1].expand(rows, -1), batch.num_clips[:1].expand(rows)
    many = batch.video[:1].expand(rows, -1, -1, -1)
    shared, repeated = (
        model(video, mask, batch.text, batch.text_mask, extents) for video in (batch.video[:1], many)
    )
    for i in range(rows):
        assert_same(shared, i, repeated, i, clips)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_order_of_the_batch_changes_neither_a_sample_nor_the_loss(name: str) -> None:
    model, order = build(name), (2, 0, 3, 1)
    straight, shuffled = make_batch(levels(name)), make_batch(levels(name), order)
    expected, got = run(model, straight), run(model, shuffled)
    for j, i in enumerate(order):
        assert_same(expected, i, got, j, SAMPLES[i][0])
    loss = criterion(name)
    torch.testing.assert_close(loss(got, shuffled)[0], loss(expected, straight)[0])


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient_and_the_features_get_none(name: str) -> None:
    model, batch = build(name).train(), make_batch(levels(name))
    total, _ = criterion(name)(run(model, batch), batch)
    total.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert batch.video.grad is None
    assert batch.text.grad is None


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_result_depends_on_every_level_of_both_modalities(name: str) -> None:
    model, batch = build(name), make_batch(levels(name))
    before = run(model, batch).class_logits
    for level in range(levels(name)):
        for features in (batch.video, batch.text):
            stored = features[:, level].clone()
            features[:, level] = torch.randn(stored.shape, generator=torch.Generator().manual_seed(1)).half()
            assert not torch.allclose(run(model, batch).class_logits, before)
            features[:, level] = stored


@pytest.mark.parametrize("name", MODELS)
def test_the_number_of_parameters_is_close_to_table_h(name: str) -> None:
    rows = find_experiment("tableH").rows
    (printed,) = (number(row.paper[0]) for row in rows if row.overrides == (f"model={name}",))
    model = build_model(configured(name, dim=256, heads=8), {"video_dim": 768, "text_dim": 1024})
    # R2-Tuning's tool, and so probably the paper, divides by 2^20.
    assert sum(p.numel() for p in model.parameters()) / 2**20 == pytest.approx(printed, rel=0.15)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_video_shorter_than_a_stride_has_no_such_points(name: str) -> None:
    batch = make_batch(levels(name), (3,))
    output = run(build(name), batch)
    assert output.anchors.stride.tolist() == [1] * 5 + [2] * 2 + [4]
    assert output.anchors.mask.all()


@pytest.mark.parametrize("name", MODELS)
def test_features_with_a_different_number_of_levels_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="levels"):
        run(build(name), make_batch(levels(name) + 1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dim": 15}, "model.dim"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"drop_path": -0.1}, "model.drop_path"),
        ({"strides": [2, 4]}, "model.strides"),
        ({"strides": [1, 3]}, "model.strides"),
        ({"strides": [1, 4, 2]}, "model.strides"),
        ({"strides": []}, "model.strides"),
    ],
)
def test_the_message_names_an_invalid_option(name: str, options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        build(name, **options)


@torch.no_grad()
def test_see_padding_makes_a_sample_depend_on_its_batch() -> None:
    model = build("r2_tuning", see_padding=True)
    alone, together = (run(model, make_batch(4, order)) for order in ((1,), (1, 0)))
    assert not torch.allclose(together.dense[0, : SAMPLES[1][0]], alone.dense[0])


# --- points and heads ---


@torch.no_grad()
def test_a_point_depends_only_on_its_own_clips() -> None:
    torch.manual_seed(0)
    pyramid, clips = Pyramid(4, [1, 2, 4, 8]), torch.randn(1, 21, 4)
    anchors = pyramid.anchors(torch.ones(1, 21, dtype=torch.bool))
    before = torch.cat(pyramid(clips), dim=1)
    assert before.shape[1] == len(anchors.position) == 21 + 10 + 5 + 2
    for clip in range(21):
        changed = clips.clone()
        changed[:, clip] += 1
        moved = (torch.cat(pyramid(changed), dim=1) != before).any(dim=-1)[0]
        own = (anchors.position <= clip) & (clip < anchors.position + anchors.stride)
        assert not (moved & ~own).any()
        assert moved.any()


def test_the_reaches_of_all_levels_have_no_gaps() -> None:
    anchors = Pyramid(4, [1, 2, 4, 8]).anchors(torch.ones(1, 8, dtype=torch.bool))
    reaches = dict(zip(anchors.stride.tolist(), map(tuple, anchors.reach.tolist()), strict=True))
    assert reaches == {1: (0, 2), 2: (2, 4), 4: (4, 8), 8: (8, inf)}


def naive_upsample(values: list[float], clips: int) -> list[float]:
    """Upsample like the official code: repeat each value, then the last one to the end."""
    repeated = [value for value in values for _ in range(clips // len(values))] if values else []
    return repeated + [values[-1] if values else 0.0] * (clips - len(repeated))


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), stride=st.sampled_from([1, 2, 4, 8]))
def test_points_share_the_clips_evenly(counts: list[int], stride: int) -> None:
    longest = max(counts)
    level = torch.rand(len(counts), longest // stride + 1)  # one more than any video has
    result = upsample(level, torch.tensor(counts), stride, longest)
    for i, clips in enumerate(counts):
        expected = naive_upsample(level[i, : clips // stride].tolist(), clips)
        assert result[i, :clips].tolist() == expected


# --- targets and losses ---


def naive_target(anchors: Anchors, i: int, point: int, moments: list[tuple[float, float]]) -> int:
    """Index of a point's moment (start, end in clips), -1 without one."""
    if not anchors.mask[i, point]:
        return -1
    position, stride = anchors.position[point].item(), anchors.stride[point].item()
    least, most = anchors.reach[point].tolist()
    best = -1
    for g, (start, end) in enumerate(moments):
        first = max(start, (start + end) / 2 - 1.5 * stride)
        last = min(end, (start + end) / 2 + 1.5 * stride)
        farther = max(position - start, end - position)
        if not (first <= position <= last and least <= farther <= most):
            continue
        if best < 0 or end - start < moments[best][1] - moments[best][0]:
            best = g
    return best


MOMENTS = st.lists(st.tuples(st.integers(0, 128), st.integers(1, 128)), max_size=3)


@given(samples=st.lists(st.tuples(st.integers(1, 64), MOMENTS), min_size=1, max_size=3))
def test_assignment_and_boundary_loss_equal_the_naive_loops(
    samples: list[tuple[int, list[tuple[int, int]]]],
) -> None:
    """Moments on a grid of half clips, where points lie exactly on boundaries and at the ends of reaches."""
    counts = torch.tensor([clips for clips, _ in samples])
    size, num_clips = len(samples), int(counts.max())
    # Start and length in half clips, cut to the video.
    spans = [
        [(a / 2, min((a + b) / 2, clips)) for a, b in moments if a / 2 < clips] for clips, moments in samples
    ]
    moments, mask = torch.zeros(size, 3, 2), torch.zeros(size, 3, dtype=torch.bool)
    for i, own in enumerate(spans):
        for g, (start, end) in enumerate(own):
            moments[i, g] = torch.tensor([(start + end) / 2, end - start]) / counts[i]
            mask[i, g] = True
    anchors = Pyramid(4, [1, 2, 4, 8]).anchors(torch.arange(num_clips) < counts[:, None])
    result = assign_points(anchors, moments, mask, counts.float())
    expected = [
        [naive_target(anchors, i, point, own) for point in range(len(anchors.position))]
        for i, own in enumerate(spans)
    ]
    lengths = [[end - start for start, end in own] for own in spans]
    for i, (ours, theirs) in enumerate(zip(result.tolist(), expected, strict=True)):
        # Which of two equally long moments it is does not matter.
        assert [g if g < 0 else lengths[i][g] for g in ours] == [
            g if g < 0 else lengths[i][g] for g in theirs
        ]

    references = torch.rand(size, len(anchors.position), 2, generator=torch.Generator().manual_seed(0))
    errors = []
    for i, row in enumerate(result.tolist()):
        for point, g in enumerate(row):
            if g >= 0:
                centre, width = (references[i, point] * counts[i]).tolist()
                stride = anchors.stride[point].item()
                errors += [
                    abs(centre - width / 2 - spans[i][g][0]) / stride,
                    abs(centre + width / 2 - spans[i][g][1]) / stride,
                ]
    loss = boundary_loss(references, moments, result, anchors, counts.float())
    assert loss.item() == pytest.approx(sum(errors) / max(len(errors), 1), rel=1e-4, abs=1e-5)


def test_a_point_at_the_start_of_a_moment_is_inside_it_for_every_duration() -> None:
    """Shares of the duration are rounded: without the tolerance some of these points would miss their moment."""
    cases = [(clips, start) for clips in range(2, 80) for start in range(clips - 1)]
    counts, starts = torch.tensor(cases).unbind(1)
    moments = torch.stack([starts + 1, torch.full_like(starts, 2)], dim=1) / counts[:, None]
    anchors = Pyramid(4, [1, 2]).anchors(torch.arange(79) < counts[:, None])
    mask = torch.ones(len(cases), 1, dtype=torch.bool)
    result = assign_points(anchors, moments[:, None], mask, counts.float())
    for offset in (0, 1, 2):  # the last of them exists only if the video continues
        exists = starts + offset < counts
        assert (result[exists, starts[exists] + offset] == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_class_and_iou_terms_are_averaged_over_points(name: str) -> None:
    batch = make_batch(levels(name))
    with torch.no_grad():
        output = run(build(name), batch)
    weights = dict.fromkeys(("cls", "l1", "iou", "act", "sal", "video", "layer"), 0.0) | {
        "cls": 1.0,
        "iou": 1.0,
    }
    loss = Criterion(weights, match_weights={"cls": 1.0, "l1": 1.0, "iou": 1.0}, alpha=None, gamma=2.0)
    _, terms = loss(output, batch)
    cls, iou = naive_class_and_iou(output, batch)
    assert terms["cls"].item() == pytest.approx(cls, rel=1e-4)
    assert terms["iou"].item() == pytest.approx(iou, rel=1e-4)


def naive_class_and_iou(output: Output, batch: Batch) -> tuple[float, float]:
    assignment = assign_points(output.anchors, batch.moments, batch.moment_mask, batch.num_clips)
    errors, distances = [], []
    for i, point in output.anchors.mask.nonzero().tolist():
        found = assignment[i, point].item()
        right = torch.sigmoid((1 if found >= 0 else -1) * output.class_logits[i, 0, point]).item()
        errors.append(-((1 - right) ** 2) * torch.tensor(right).log().item())
        if found >= 0:
            (a, b), (c, d) = (bounds(cw) for cw in (output.references[i, 0, point], batch.moments[i, found]))
            overlap = max(0.0, min(b, d) - max(a, c))
            distances.append(1 - overlap / (b - a + d - c - overlap))
    return sum(errors) / len(errors), sum(distances) / len(distances)


def bounds(cw: Tensor) -> tuple[float, float]:
    centre, width = cw.tolist()
    return centre - width / 2, centre + width / 2
