"""RDSA against slow loops over samples, queries, heads and points, written from eq. 9-11."""

import math

import numpy as np
import pytest
import torch

from sdst.models.attention import RDSA, ContextCNN, VideoMemory
from sdst.models.interpolation import ClipAxis

DIM, HEADS, POINTS, QUERIES = 8, 4, 3, 5
COUNTS, EXTENTS = [6, 1, 3], [6.0, 0.7, 3.4]
SIDES = {"l": -1, "c": 0, "r": 1}


def make(sampling: str = "lcr", cnn_depth: int = 2, trained: bool = True) -> RDSA:
    """RDSA in float64; ``trained`` moves every parameter, also those that start at zero."""
    torch.manual_seed(0)
    rdsa = RDSA(DIM, HEADS, POINTS, list(sampling), cnn_depth, query_dim=7).double()
    if trained:
        for parameter in rdsa.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return rdsa


def example(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, ClipAxis]:
    """(B, K = 2, T, d) signal with garbage where padded, (B, M, 2) references, the axis."""
    torch.manual_seed(seed)
    mask = torch.arange(max(COUNTS)) < torch.tensor(COUNTS)[:, None]
    signal = torch.randn(len(COUNTS), 2, max(COUNTS), DIM, dtype=torch.float64)
    references = torch.rand(len(COUNTS), QUERIES, 2, dtype=torch.float64)
    axis = ClipAxis(mask, torch.tensor(COUNTS).float(), torch.tensor(EXTENTS).double())
    return signal, references, axis


def read(rdsa: RDSA, signal: torch.Tensor, references: torch.Tensor, axis: ClipAxis, level: int):
    context, values = rdsa.prepare(signal, axis.mask)
    return rdsa(references, VideoMemory(context[:, level], values[:, level]), axis)


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


def slow_rdsa(rdsa: RDSA, sampling: str, clips: np.ndarray, extent: float, centre: float, width: float):
    """Update (d,) and mean offset of each head (H,) for one query of one video's valid clips (T, d)."""
    context = slow_context(rdsa.cnn, clips)
    values = np.array([linear(rdsa.value, clip) for clip in clips])
    asked = [centre + SIDES[side] * width / 2 for side in sampling]
    clips_there = [slow_read(context, time * extent - 0.5, "clamp") for time in asked]
    z = np.maximum(linear(rdsa.query[0], np.concatenate(clips_there)), 0)
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
@pytest.mark.parametrize(("sampling", "cnn_depth"), [("lcr", 2), ("lcr", 0), ("lr", 1), ("c", 2), ("c", 0)])
def test_update_and_mean_offsets_equal_slow_loops(sampling, cnn_depth, level):
    rdsa = make(sampling, cnn_depth)
    signal, references, axis = example()
    update, offsets = read(rdsa, signal, references, axis, level)
    assert update.shape == (len(COUNTS), QUERIES, DIM)
    assert offsets.shape == (len(COUNTS), QUERIES, HEADS)
    for b, (count, extent) in enumerate(zip(COUNTS, EXTENTS, strict=True)):
        clips = signal[b, level, :count].numpy()
        for m in range(QUERIES):
            expected, expected_offsets = slow_rdsa(rdsa, sampling, clips, extent, *references[b, m].tolist())
            assert update[b, m].tolist() == pytest.approx(expected, abs=1e-5)
            assert offsets[b, m].tolist() == pytest.approx(expected_offsets, abs=1e-5)


def test_heads_start_spread_around_the_moment_whatever_the_video_shows():
    """Point j of head h starts cos(2πh/H)·(j+1)/P half widths from the centre, all points equally weighted."""
    rdsa = make(trained=False)
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


@pytest.mark.parametrize(("sampling", "read_clips"), [("c", {4}), ("lr", {2, 6}), ("lcr", {2, 4, 6})])
def test_the_query_is_steered_by_the_named_clips_of_the_moment_alone(sampling, read_clips):
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


def test_what_lies_behind_a_video_changes_nothing_also_not_through_the_convolutions():
    rdsa = make()
    signal, references, axis = example()
    update, offsets = read(rdsa, signal, references, axis, level=1)
    changed = torch.where(axis.mask[:, None, :, None], signal, 1e3)
    got, got_offsets = read(rdsa, changed, references, axis, level=1)
    assert torch.equal(got, update)
    assert torch.equal(got_offsets, offsets)


def test_gradients_reach_every_parameter_the_signal_and_the_references():
    rdsa = make()
    signal, references, axis = example()
    signal.requires_grad_()
    references.requires_grad_()
    update, _ = read(rdsa, signal, references, axis, level=0)
    (update * torch.randn_like(update)).sum().backward()
    tensors = {**dict(rdsa.named_parameters()), "signal": signal, "references": references}
    assert [name for name, t in tensors.items() if t.grad is None or not t.grad.any()] == []
    assert not signal.grad[~axis.mask.unsqueeze(1).expand(-1, 2, -1)].any()
