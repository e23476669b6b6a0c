"""Laws of UniVTG: padding, order of the batch, points, and losses equal to naive loops."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.composed import composed
from helpers.tiny_baselines import build, configured, make_batch
from sdst.baselines.univtg import UniVTGCriterion, assign_clips
from sdst.config.build import build as build_node
from sdst.config.schema import Decoding
from sdst.errors import UserError
from sdst.models.decoding import decode
from sdst.spans import cw_to_se
from sdst.types import Batch, Output

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def criterion(**weights: float) -> UniVTGCriterion:
    loss = configured("univtg")["loss"]
    return UniVTGCriterion(loss["weights"] | weights, match_weights=loss["match_weights"], alpha=None)


def grounded(batch: Batch, **options: Any) -> tuple[nn.Module, Output]:
    model = build("univtg", **options)
    return model, model(*batch.inputs())


@torch.no_grad()
def test_padding_and_the_order_of_the_batch_change_no_loss() -> None:
    straight, shuffled = make_batch(1), make_batch(1, (2, 0, 3, 1), extra_clips=7, extra_tokens=2)
    (_, one), (_, other) = grounded(straight), grounded(shuffled)
    expected, got = criterion().by_level(one, straight), criterion().by_level(other, shuffled)
    assert expected.keys() == {"cls", "l1", "iou", "inter", "intra"}
    for term, value in expected.items():
        torch.testing.assert_close(got[term], value, **CLOSE)


def naive_assignment(batch: Batch, point: float) -> list[list[int]]:
    rows = []
    for b in range(len(batch)):
        clips = int(batch.video_mask[b].sum())
        moments = (cw_to_se(batch.moments[b]) * batch.num_clips[b])[batch.moment_mask[b]].tolist()
        row = [-1] * batch.video_mask.shape[1]
        for t in range(clips):
            for g, (start, end) in enumerate(moments):
                if start - 1e-3 <= t + point <= end + 1e-3:
                    row[t] = g
        if moments and row == [-1] * len(row):
            row[int(moments[0][0] + 1e-3)] = 0
        rows.append(row)
    return rows


@pytest.mark.parametrize("point", [1.0, 0.5, 0.0])
@torch.no_grad()
def test_clips_are_assigned_the_last_moment_around_their_point(point: float) -> None:
    batch = make_batch(1, extra_clips=2)
    batch.moments[1, 1], batch.moment_mask[1, 1] = (
        torch.tensor([6 / 13, 5 / 13]),
        True,
    )  # inside the other one
    batch.moments[2, 0] = torch.tensor([4.3 / 9, 0.1 / 9])  # no point of 0, 0.5 or 1 in it
    _, output = grounded(batch, point=point)
    assert assign_clips(output.anchors, batch).tolist() == naive_assignment(batch, point)
    batch.moments, batch.moment_mask = batch.moments[:, :0], batch.moment_mask[:, :0]
    assert (assign_clips(output.anchors, batch) == -1).all()


def naive_losses(output: Output, batch: Batch) -> dict[str, float]:
    """Loops over clips and samples, as the paper has them."""
    assignment = naive_assignment(batch, 1.0)
    classes, l1, iou = [], [], []
    for b, row in enumerate(assignment):
        for t in range(int(batch.video_mask[b].sum())):
            log = F.logsigmoid(output.class_logits[b, 0, t] * (1 if row[t] >= 0 else -1))
            classes.append(-float(log) * (1 if row[t] >= 0 else 0.1))
            if row[t] >= 0:
                a, z = cw_to_se(output.references[b, 0, t]).tolist()
                start, end = cw_to_se(batch.moments[b, row[t]]).tolist()
                l1.append(sum(0.5 * d * d if d < 1 else d - 0.5 for d in (abs(a - start), abs(z - end))))
                hull = max(z, end) - min(a, start)
                inter = max(0.0, min(z, end) - max(a, start))
                union = z - a + end - start - inter
                iou.append(1 - inter / union + (hull - union) / hull)
    used = [b for b in range(len(batch)) if batch.positive_clip[b] >= 0]
    p = batch.positive_clip.tolist()

    def cosine(b: int, t: int, query: int) -> float:
        return float(F.cosine_similarity(output.dense[b, t], output.query[query], dim=0)) / 0.07

    def candidates(b: int, t: int) -> bool:
        less = bool(batch.saliency[b, t] < batch.saliency[b, p[b]]) and bool(batch.video_mask[b, t])
        return less or t == p[b]

    def minus_log_softmax(scores: list[float], index: int) -> float:
        return -float(torch.tensor(scores).log_softmax(0)[index])

    inter_loss = intra_loss = 0.0
    for n, b in enumerate(used):
        inter_loss += minus_log_softmax([cosine(b, p[b], other) for other in used], n)
        inter_loss += minus_log_softmax([cosine(other, p[other], b) for other in used], n)
        row = [t for t in range(output.dense.shape[1]) if candidates(b, t)]
        intra_loss += minus_log_softmax([cosine(b, t, b) for t in row], row.index(p[b]))
        column = [other for other in used if candidates(other, p[b])]
        intra_loss += minus_log_softmax([cosine(other, p[b], other) for other in column], column.index(b))
    means = {"cls": classes, "l1": l1, "iou": iou}
    return {name: sum(values) / len(values) for name, values in means.items()} | {
        "inter": inter_loss / len(used),
        "intra": intra_loss / len(used),
    }


@torch.no_grad()
def test_losses_equal_naive_loops() -> None:
    batch = make_batch(1, extra_clips=2)
    batch.saliency[0, 7] = 0.25  # between the others
    batch.positive_clip[1] = 5
    _, output = grounded(batch)
    terms = criterion().by_level(output, batch)
    for name, expected in naive_losses(output, batch).items():
        assert float(terms[name]) == pytest.approx(expected, rel=1e-4), name


def test_a_batch_without_moments_and_positive_clips_trains_without_nan() -> None:
    batch = make_batch(1, (3,))
    model, output = grounded(batch)
    total, terms = criterion()(output, batch)
    total.backward()
    assert [name for name, value in terms.items() if value != 0] == ["cls"]
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_gets_a_gradient() -> None:
    batch = make_batch(1)
    model, output = grounded(batch)
    criterion()(output, batch)[0].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_a_positive_clip_that_is_not_read_takes_part_in_no_loss() -> None:
    batch = make_batch(1)
    _, output = grounded(batch, max_clips=8)
    batch.positive_clip[0] = 20
    ours = criterion(cls=0.0, l1=0.0, iou=0.0).by_level(output, batch)
    batch.positive_clip[0] = -1
    for term, value in criterion(cls=0.0, l1=0.0, iou=0.0).by_level(output, batch).items():
        torch.testing.assert_close(ours[term], value)


@torch.no_grad()
def test_the_class_is_added_to_the_saliency_unless_it_is_not_trained() -> None:
    batch = make_batch(1)
    (_, added), (_, plain) = grounded(batch), grounded(batch, add_class=False)
    torch.testing.assert_close(added.saliency - added.class_logits[:, 0].sigmoid(), plain.saliency, **CLOSE)
    for data, value in {"qvhighlights": True, "tvsum": False, "youtube_highlights": False}.items():
        assert composed("model=univtg", f"data={data}").model.add_class is value


@torch.no_grad()
def test_moments_that_nms_drops_leave_room_for_others() -> None:
    batch = make_batch(1)
    _, output = grounded(batch)
    drop = Decoding("drop", sigma=0.5, iou_threshold=0.7, round_to=None, max_moments=3, score="class")
    hard = Decoding("hard", sigma=0.5, iou_threshold=0.7, round_to=None, max_moments=None, score="class")
    for ours, all_of_them in zip(decode(output, batch, drop), decode(output, batch, hard), strict=True):
        kept = all_of_them.windows[all_of_them.windows[:, 2] > 0][:3]
        assert ours.windows.tolist() == kept.tolist()


def test_a_point_outside_its_clip_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.point must lie in \[0, 1\], got 2"):
        build("univtg", point=2.0)


def test_the_number_of_parameters_is_the_official_one_without_positions_of_words() -> None:
    model = build_node(composed("model=univtg").model, video_dim=768, text_dim=1024, levels=1)
    d, linear = 1024, 1024 * 1024 + 1024

    def projection(width: int) -> int:
        return 2 * width + (width * d + d) + 2 * d + linear

    layer = 4 * linear + 2 * linear + 2 * 2 * d  # attention, feed-forward network, two norms
    heads = sum(2 * (3 * d * d + d) + 3 * d * outputs + outputs for outputs in (1, 2))
    expected = projection(768 + 2) + projection(1024) + 4 * layer + heads + 2 * d + d
    positions_of_words = 75 * d + 2 * d
    assert sum(p.numel() for p in model.parameters()) == expected == 41_830_919 - positions_of_words
    assert positions_of_words == 78_848
