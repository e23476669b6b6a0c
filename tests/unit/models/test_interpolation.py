"""Linear interpolation of clip features equals numpy.interp and grid_sample, and its gradients finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sdst.models.interpolation import ClipAxis, interpolate

CASES = {
    "counts": st.lists(st.integers(1, 7), min_size=1, max_size=3),
    "where": st.lists(st.floats(-4, 10, width=32), min_size=1, max_size=6),
    "seed": st.integers(0, 1000),
}


def ragged(counts: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, T, 2) random features, NaN beyond each sample's count, and the counts."""
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(counts), max(counts) + 1, 2)))
    for row, count in zip(values, counts, strict=True):
        row[count:] = torch.nan
    return values, torch.tensor(counts, dtype=torch.float64)


def clamped(row: np.ndarray, count: int, position: float) -> float:
    return float(np.interp(position, np.arange(count), row[:count]))


def zero_padded(row: np.ndarray, count: int, position: float) -> float:
    return float(np.interp(position, np.arange(-1, count + 1), [0, *row[:count], 0]))


@given(**CASES)
@pytest.mark.parametrize(("outside", "expected"), [("clamp", clamped), ("zero", zero_padded)])
def test_equals_numpy_interp_and_never_reads_beyond_the_count(outside, expected, counts, where, seed):
    values, count = ragged(counts, seed)
    positions = torch.tensor([where] * len(counts), dtype=torch.float64)
    got = interpolate(values, positions, count, outside=outside)
    for (n, s, c), value in np.ndenumerate(got.numpy()):
        assert value == pytest.approx(expected(values[n, :, c].numpy(), counts[n], where[s]), abs=1e-9)


@given(count=st.integers(1, 7), where=CASES["where"], seed=CASES["seed"])
def test_zero_outside_equals_grid_sample_with_zero_padding(count, where, seed):
    values = ragged([count], seed)[0][:, :count]
    positions = torch.tensor([where], dtype=torch.float64)
    x = (2 * positions + 1) / count - 1  # clip centres without align_corners
    grid = torch.stack([x, torch.zeros_like(x)], dim=-1).unsqueeze(1)
    image = values.transpose(1, 2).unsqueeze(2)  # (N, C, 1, T)
    expected = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)
    got = interpolate(values, positions, torch.tensor([count], dtype=torch.float64), outside="zero")
    torch.testing.assert_close(got, expected[:, :, 0].transpose(1, 2))


@pytest.mark.parametrize("outside", ["clamp", "zero"])
def test_gradients_to_values_and_positions_equal_finite_differences(outside):
    values, count = ragged([4, 2], seed=0)
    values = values.nan_to_num(5.0).requires_grad_()
    positions = torch.tensor([[-1.6, -0.7, 0.3, 1.9, 2.5, 3.4, 7.2]] * 2, dtype=torch.float64)
    positions.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, p: interpolate(v, p, count, outside=outside), (values, positions)
    )


@pytest.mark.parametrize("outside", ["clamp", "zero"])
def test_gradients_are_finite_and_zero_beyond_the_count(outside):
    values, count = ragged([2, 5], seed=0)
    values.requires_grad_()
    positions = torch.tensor([[0.5, 1.0, 1.2, 30.0]] * 2, dtype=torch.float64, requires_grad=True)
    interpolate(values, positions, count, outside=outside).sum().backward()
    assert (values.grad[0, 2:] == 0).all()
    assert (values.grad[0, :2] != 0).all()
    assert positions.grad.isfinite().all()


@pytest.mark.parametrize("extreme", [1e30, torch.finfo(torch.float32).max, torch.inf])
def test_extreme_positions_read_the_end_clips_or_zero(extreme):
    values = torch.tensor([[[3.0], [5.0], [7.0]]])
    positions = torch.tensor([[-extreme, extreme]])
    count = torch.tensor([2.0])
    assert interpolate(values, positions, count, outside="clamp").flatten().tolist() == [3, 5]
    assert interpolate(values, positions, count, outside="zero").flatten().tolist() == [0, 0]


@pytest.mark.parametrize("outside", ["clamp", "zero"])
def test_a_nan_position_makes_only_its_own_result_nan(outside):
    values, positions = torch.tensor([[[3.0], [5.0]]] * 2), torch.tensor([[1.0, torch.nan], [torch.nan, 0.5]])
    got = interpolate(values, positions, torch.tensor([2.0, 2.0]), outside=outside)
    torch.testing.assert_close(
        got[..., 0], torch.tensor([[5.0, torch.nan], [torch.nan, 4.0]]), equal_nan=True
    )


@given(shift=st.integers(1, 5), **CASES)
@pytest.mark.parametrize("outside", ["clamp", "zero"])
def test_shifting_the_features_shifts_the_positions_at_which_they_are_read(
    outside, shift, counts, where, seed
):
    values, count = ragged(counts, seed)
    positions = torch.tensor([where] * len(counts), dtype=torch.float64)
    before = values[:, :1].expand(-1, shift, -1) if outside == "clamp" else values.new_zeros(1, shift, 2)
    moved = torch.cat([before.expand(len(counts), -1, -1), values], dim=1)
    torch.testing.assert_close(
        interpolate(moved, positions + shift, count + shift, outside=outside),
        interpolate(values, positions, count, outside=outside),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_keep_float32_positions(dtype):
    values = torch.zeros(1, 1002, 1, dtype=dtype)
    values[0, 1001] = 1  # bfloat16 rounds 1000.5 to 1000, and float16 rounds 1000.25 to 1000
    got = interpolate(values, torch.tensor([[1000.5, 1000.25]]), torch.tensor([1002.0]), outside="clamp")
    assert got.dtype == dtype
    assert got.flatten().tolist() == [0.5, 0.25]


@given(
    duration=st.floats(0.5, 300),
    clip_seconds=st.sampled_from([1.0, 2.0, 0.5]),
    clip=st.integers(0, 200),
)
def test_the_position_of_a_clips_centre_is_its_index(duration, clip_seconds, clip):
    extent = torch.tensor([1.0, duration / clip_seconds], dtype=torch.float64)
    axis = ClipAxis(torch.ones(2, 1, dtype=torch.bool), torch.ones(2), extent)
    centre_s = (clip + 0.5) * clip_seconds
    time = torch.tensor(centre_s / duration, dtype=torch.float64).expand(2, 3, 1)
    got = axis.position(time)
    assert got.shape == time.shape
    assert got[1].flatten().tolist() == pytest.approx([clip] * 3, abs=1e-6)
