"""Every attention of Tab. 5 equals slow loops over samples, queries, heads and points, written from eq. 8-11."""

import math

import numpy as np
import pytest
import torch

from sdst.models.attention import ClipAttention, ContextCNN, DeformableAttention
from sdst.models.interpolation import ClipAxis

DIM, HEADS, POINTS, QUERIES = 8, 4, 3, 5
COUNTS, EXTENTS = [6, 1, 3], [6.0, 0.7, 3.4]
SIDES = {"l": -1, "c": 0, "r": 1}


def make(sampling: str = "lcr", cnn_depth: int = 2, trained: bool = True) -> DeformableAttention:
    """Make RDSA in float64, or eq. 8 without ``sampling``; ``trained`` also moves weights that start at zero."""
    torch.manual_seed(0)
    rdsa = DeformableAttention(DIM, HEADS, POINTS, list(sampling), cnn_depth, query_dim=7).double()
    return move(rdsa) if trained else rdsa


def move(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


def example(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, ClipAxis]:
    """(B, K = 2, T, d) signal with garbage where padded, (B, M, 2) references, the axis."""
    torch.manual_seed(seed)
    mask = torch.arange(max(COUNTS)) < torch.tensor(COUNTS)[:, None]
    signal = torch.randn(len(COUNTS), 2, max(COUNTS), DIM, dtype=torch.float64)
    references = torch.rand(len(COUNTS), QUERIES, 2, dtype=torch.float64)
    axis = ClipAxis(mask, torch.tensor(COUNTS).float(), torch.tensor(EXTENTS).double())
    return signal, references, axis


def queries_and_place(references: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries and positions, each (B, M, d), the same in every call."""
    generator = torch.Generator().manual_seed(5)
    shape = (2, *references.shape[:2], DIM)
    queries, place = torch.randn(shape, dtype=torch.float64, generator=generator)
    return queries, place


def read(module: torch.nn.Module, signal: torch.Tensor, references: torch.Tensor, axis: ClipAxis, level: int):
    memory = module.prepare(signal, axis)[level]
    return module(*queries_and_place(references), references, memory, axis)


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()


def slow_context(cnn: ContextCNN, clips: np.ndarray) -> np.ndarray:
    """E of one video's valid clips (T, d)."""
    for conv, norm in zip(cnn.convs, cnn.norms, strict=True):
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
        rows = []
        for t in range(len(clips)):
            taps = [(tap, t + tap - 1) for tap in range(3) if 0 <= t + tap - 1 < len(clips)]
            x = bias + sum(weight[:, :, tap] @ clips[source] for tap, source in taps)
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * scale + shift
            rows.append(np.maximum(x, 0))
        clips = np.array(rows)
    return clips


def slow_read(clips: np.ndarray, position: float, outside: str) -> np.ndarray:
    grid = np.arange(len(clips))
    if outside == "zero":
        edge = np.zeros((1, clips.shape[1]))
        grid, clips = np.arange(-1, len(clips) + 1), np.concatenate([edge, clips, edge])
    return np.array([np.interp(position, grid, channel) for channel in clips.T])


def slow_z(rdsa, sampling: str, clips: np.ndarray, extent: float, centre: float, width: float) -> np.ndarray:
    """Eq. 10 for one query of one video's valid clips (T, d)."""
    context = slow_context(rdsa.cnn, clips)
    asked = [centre + SIDES[side] * width / 2 for side in sampling]
    clips_there = [slow_read(context, time * extent - 0.5, "clamp") for time in asked]
    return np.maximum(linear(rdsa.query[0], np.concatenate(clips_there)), 0)


def slow_update(rdsa, z: np.ndarray, clips: np.ndarray, extent: float, centre: float, width: float):
    """Update (d,) and mean offset of each head (H,) for one query of one video's valid clips (T, d)."""
    values = np.array([linear(rdsa.value, clip) for clip in clips])
    offsets = linear(rdsa.offset, z).reshape(HEADS, POINTS)
    scores = linear(rdsa.weight, z).reshape(HEADS, POINTS)
    heads, mean_offsets, size = [], [], DIM // HEADS
    for h in range(HEADS):
        attention = np.exp(scores[h]) / np.exp(scores[h]).sum()
        total = np.zeros(size)
        for j in range(POINTS):
            position = (centre + offsets[h, j] * width / 2) * extent - 0.5
            total += attention[j] * slow_read(values[:, h * size : (h + 1) * size], position, "zero")
        heads.append(total)
        mean_offsets.append(sum(attention[j] * offsets[h, j] for j in range(POINTS)))
    return linear(rdsa.out, np.concatenate(heads)), mean_offsets


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(
    ("sampling", "cnn_depth"), [("lcr", 2), ("lcr", 0), ("lr", 1), ("c", 2), ("c", 0), ("", 2)]
)
def test_update_and_mean_offsets_equal_slow_loops(sampling, cnn_depth, level):
    rdsa = make(sampling, cnn_depth)
    signal, references, axis = example()
    update, offsets = read(rdsa, signal, references, axis, level)
    queries, place = queries_and_place(references)
    assert update.shape == (len(COUNTS), QUERIES, DIM)
    assert offsets.shape == (len(COUNTS), QUERIES, HEADS)
    for b, (count, extent) in enumerate(zip(COUNTS, EXTENTS, strict=True)):
        clips = signal[b, level, :count].numpy()
        for m in range(QUERIES):
            moment = references[b, m].tolist()
            with_place = queries[b, m] + place[b, m]
            z = slow_z(rdsa, sampling, clips, extent, *moment) if sampling else with_place.numpy()
            expected, expected_offsets = slow_update(rdsa, z, clips, extent, *moment)
            assert update[b, m].tolist() == pytest.approx(expected, abs=1e-5)
            assert offsets[b, m].tolist() == pytest.approx(expected_offsets, abs=1e-5)


def test_rdsa_with_the_queries_in_place_of_z_equals_deformable_attention():
    """Eq. 11 differs from eq. 8 only in the input of its linear layers."""

    class Queries(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return sum(queries_and_place(references))

    signal, references, axis = example()
    deformable = make(sampling="")
    torch.manual_seed(9)
    rdsa = DeformableAttention(DIM, HEADS, POINTS, ["l", "c", "r"], 2, query_dim=DIM).double()
    assert not torch.equal(rdsa.offset.weight, deformable.offset.weight)
    rdsa.query = Queries()
    missing, unexpected = rdsa.load_state_dict(deformable.state_dict(), strict=False)
    assert all(name.startswith("cnn.") for name in missing)
    assert not unexpected
    for level in (0, 1):
        got, expected = (read(module, signal, references, axis, level) for module in (rdsa, deformable))
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


def test_standard_attention_is_a_softmax_over_the_valid_clips_with_positions_of_moment_detr():
    torch.manual_seed(0)
    module = move(ClipAttention(DIM, HEADS).double())
    signal, references, axis = example()
    queries, place = queries_and_place(references)
    update, offsets = read(module, signal, references, axis, level=1)
    assert offsets is None
    layers, size = module.attention, DIM // HEADS
    for b, (count, extent) in enumerate(zip(COUNTS, EXTENTS, strict=True)):
        clips = signal[b, 1, :count].numpy()
        keys = []
        for t, clip in enumerate(clips):
            angles = [2 * math.pi * (t + 0.5) / extent / 10_000 ** (i / (DIM / 2)) for i in range(DIM // 2)]
            keys.append(clip + np.concatenate([np.sin(angles), np.cos(angles)]))
        keys = np.array([linear(layers.key, key) for key in keys])
        values = np.array([linear(layers.value, clip) for clip in clips])
        for m in range(QUERIES):
            query = linear(layers.query, (queries[b, m] + place[b, m]).numpy())
            heads = []
            for h in range(HEADS):
                part = slice(h * size, (h + 1) * size)
                scores = np.exp(keys[:, part] @ query[part] / math.sqrt(size))
                heads.append(scores / scores.sum() @ values[:, part])
            expected = linear(layers.out, np.concatenate(heads))
            assert update[b, m].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sampling", ["lcr", ""])
def test_heads_start_spread_around_the_moment_for_any_video(sampling):
    """Point j of head h starts cos(2πh/H)·(j+1)/P half widths from the centre, all points equally weighted."""
    rdsa = make(sampling, trained=False)
    points = [
        [math.cos(2 * math.pi * h / HEADS) * (j + 1) / POINTS for j in range(POINTS)] for h in range(HEADS)
    ]
    assert rdsa.offset.bias.view(HEADS, POINTS).tolist() == [pytest.approx(p, abs=1e-6) for p in points]
    expected = torch.tensor([sum(p) / POINTS for p in points])
    for seed in (1, 2):
        _, offsets = read(rdsa, *example(seed), level=0)
        torch.testing.assert_close(offsets, expected.expand_as(offsets), atol=1e-6, rtol=0)
    right, first_centre, left, second_centre = expected.tolist()
    assert right > 0.5
    assert left < -0.5
    assert first_centre == pytest.approx(second_centre, abs=1e-6)


def test_heads_may_start_evenly_from_boundary_to_boundary():
    rdsa = DeformableAttention(DIM, HEADS, POINTS, ["c"], 0, query_dim=7, spread="line").double()
    _, offsets = read(rdsa, *example(), level=0)
    farthest = [-1 + 2 * h / (HEADS - 1) for h in range(HEADS)]
    points = [[place * (j + 1) / POINTS for j in range(POINTS)] for place in farthest]
    assert rdsa.offset.bias.view(HEADS, POINTS).tolist() == [pytest.approx(p, abs=1e-6) for p in points]
    assert offsets[0, 0].tolist() == pytest.approx([sum(p) / POINTS for p in points], abs=1e-6)


@pytest.mark.parametrize(("sampling", "read_clips"), [("c", {4}), ("lr", {2, 6}), ("lcr", {2, 4, 6})])
def test_sampling_depends_only_on_the_named_clips_of_the_moment(sampling, read_clips):
    rdsa = make(sampling, cnn_depth=0)
    axis = ClipAxis(torch.ones(1, 9, dtype=torch.bool), torch.tensor([9.0]), torch.tensor([9.0]).double())
    references = torch.tensor([[[4.5 / 9, 4 / 9]]], dtype=torch.float64)  # centre in clip 4, ends in 2 and 6
    signal = torch.randn(1, 1, 9, DIM, dtype=torch.float64)
    _, before = read(rdsa, signal, references, axis, level=0)
    steering = set()
    for clip in range(9):
        changed = signal.clone()
        changed[:, :, clip] += 1
        _, after = read(rdsa, changed, references, axis, level=0)
        if not torch.allclose(before, after):
            steering.add(clip)
    assert steering == read_clips


KINDS = {
    "rdsa": make,
    "deformable": lambda: make(sampling=""),
    "standard": lambda: move(ClipAttention(DIM, HEADS).double()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_even_through_the_convolutions(kind):
    module = KINDS[kind]()
    signal, references, axis = example()
    update, offsets = read(module, signal, references, axis, level=1)
    changed = torch.where(axis.mask[:, None, :, None], signal, 1e3)
    got, got_offsets = read(module, changed, references, axis, level=1)
    assert torch.equal(got, update)
    assert (offsets is None) == (kind == "standard")
    assert offsets is None or torch.equal(got_offsets, offsets)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_the_signal_and_the_inputs_that_each_attention_reads(kind):
    module = KINDS[kind]()
    signal, references, axis = example()
    queries, place = queries_and_place(references)
    inputs = {"signal": signal, "references": references, "queries": queries, "place": place}
    for tensor in inputs.values():
        tensor.requires_grad_()
    memory = module.prepare(signal, axis)[0]
    update, _ = module(queries, place, references, memory, axis)
    (update * torch.randn_like(update)).sum().backward()
    tensors = {**dict(module.named_parameters()), **inputs}
    unread = {
        "rdsa": ["queries", "place"],
        "deformable": [],
        # A key's bias adds the same to all scores of a query, which does not change the softmax.
        "standard": ["attention.key.bias", "references"],
    }
    idle = [name for name, t in tensors.items() if t.grad is None or t.grad.abs().max() < 1e-12]
    assert idle == unread[kind]
    assert not signal.grad[~axis.mask.unsqueeze(1).expand(-1, 2, -1)].any()
