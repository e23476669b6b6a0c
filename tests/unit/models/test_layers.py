"""The layers of both streams equal PyTorch's own modules and plain loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sdst.models.layers import (
    AdaptivePool,
    Dropout,
    FeedForward,
    MultiHeadAttention,
    Residual,
    mlp,
    sinusoidal,
    with_places,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_pytorchs_attention_with_the_same_weights(masked):
    ours, theirs = MultiHeadAttention(16, heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    parts = (ours.query, ours.key, ours.value)
    for linear in (*parts, ours.out):
        nn.init.normal_(linear.bias)
    theirs.in_proj_weight.data = torch.cat([linear.weight for linear in parts])
    theirs.in_proj_bias.data = torch.cat([linear.bias for linear in parts])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    query, key, value = torch.randn(3, 5, 16), torch.randn(3, 7, 16), torch.randn(3, 7, 16)
    mask = torch.arange(7) < torch.tensor([[7], [1], [4]]) if masked else None
    got = ours(query, key, value, mask)
    expected, _ = theirs(query, key, value, key_padding_mask=None if mask is None else ~mask)
    torch.testing.assert_close(got, expected)


def test_attention_starts_xavier_and_feed_forward_kaiming():
    attention, ffn = MultiHeadAttention(64, heads=4), FeedForward(64, ratio=4)
    bounds = {
        **dict.fromkeys([attention.query, attention.key, attention.value, attention.out], (6 / 128) ** 0.5),
        ffn.expand: (6 / 64) ** 0.5,
        ffn.contract: (6 / 256) ** 0.5,
    }
    for linear, bound in bounds.items():
        assert 0.97 * bound < linear.weight.abs().max() <= bound
        assert (linear.bias == 0).all()


def test_feed_forward_equals_its_two_matrix_products():
    ffn, x = FeedForward(4, ratio=3), torch.randn(2, 5, 4)
    assert ffn.expand.out_features == 12
    hidden = (x @ ffn.expand.weight.T + ffn.expand.bias).clamp(min=0)
    torch.testing.assert_close(ffn(x), hidden @ ffn.contract.weight.T + ffn.contract.bias)


@pytest.mark.parametrize(("training", "drop_path"), [(False, 0.5), (True, 0.0)])
def test_residual_without_dropping_is_the_normed_sum(training, drop_path):
    residual, x, update = Residual(6, drop_path).train(training), torch.randn(4, 3, 6), torch.randn(4, 3, 6)
    torch.testing.assert_close(residual(x, update), F.layer_norm(x + update, (6,)))


def test_drop_path_drops_whole_samples_and_keeps_the_expectation():
    residual = Residual(2, drop_path=0.25)
    residual.norm = nn.Identity()
    x, update = torch.randn(1, 3, 2), torch.randn(1, 3, 2)
    samples = 8000
    change = residual(x.expand(samples, -1, -1), update.expand(samples, -1, -1)) - x
    scale = change / update  # 0 where dropped, 1 / 0.75 where kept
    torch.testing.assert_close(scale, scale[:, :1, :1].expand_as(scale), atol=1e-3, rtol=0)
    dropped = scale[:, 0, 0].abs() < 1e-3
    torch.testing.assert_close(scale[~dropped], torch.full_like(scale[~dropped], 4 / 3), atol=1e-3, rtol=0)
    deviation = math.sqrt(0.25 * 0.75 / samples)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=4 * deviation)
    assert scale.mean().item() == pytest.approx(1, abs=4 * deviation / 0.75)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 100))
def test_adaptive_pool_equals_a_loop_over_the_valid_tokens(lengths, seed):
    torch.manual_seed(seed)
    pool = AdaptivePool(4)
    tokens = torch.randn(len(lengths), 2, 5, 4)
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).unsqueeze(1).expand(-1, 2, -1)
    got = pool(tokens, mask)
    for i, length in enumerate(lengths):
        for level in range(2):
            valid = tokens[i, level, :length]
            powers = [
                math.exp(sum(a * b for a, b in zip(t, pool.score.tolist(), strict=True)))
                for t in valid.tolist()
            ]
            expected = sum(p * t for p, t in zip(powers, valid, strict=True)) / sum(powers)
            torch.testing.assert_close(got[i, level], expected)


def test_mlp_has_relu_between_its_linear_layers_only():
    network, x = mlp(3, 5, 2, depth=3), torch.randn(7, 3)
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == [(3, 5), (5, 5), (5, 2)]
    nn.init.constant_(linears[-1].bias, -9)  # a ReLU at the end would give zeros
    expected = x
    for layer in linears[:-1]:
        expected = (expected @ layer.weight.T + layer.bias).clamp(min=0)
    expected = expected @ linears[-1].weight.T + linears[-1].bias
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("dim", [2, 8, 16])
def test_sinusoidal_equals_sine_and_cosine_at_geometric_frequencies(dim):
    positions = torch.tensor([[0.0, 1.0, 0.3], [74.0, 2.5, -1.0]])
    got = sinusoidal(positions, dim)
    assert got.shape == (2, 3, dim)
    for i, j in ((i, j) for i in range(2) for j in range(3)):
        angles = [positions[i, j].item() / 10_000 ** (2 * n / dim) for n in range(dim // 2)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert got[i, j].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_elements_independently_at_its_rate_and_keeps_the_mean(probability, dtype):
    x = torch.full((1001, 99), 3.0, dtype=dtype, requires_grad=True)  # a size that four does not divide
    y = Dropout(probability).train()(x)
    kept = (y != 0).double()
    deviations = math.sqrt(probability * (1 - probability) / x.numel())
    assert abs(kept.mean() - (1 - probability)) <= 5 * deviations
    torch.testing.assert_close(
        y[y != 0].double(), (3.0 / (1 - probability) * kept[y != 0]), rtol=1e-2, atol=0
    )
    for one, other in ((kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1])):  # neighbours
        both = (one * other).mean() - (1 - probability) ** 2
        assert abs(both) <= 5 * deviations
    y.sum().backward()
    torch.testing.assert_close(x.grad * 3, y)


def test_dropout_of_nearly_everything_stays_finite():
    y = Dropout(1 - 1e-9).train()(torch.ones(1000))
    assert y.isfinite().all()
    assert (y == 0).double().mean() > 0.9


def test_dropout_is_seeded_and_off_in_evaluation():
    dropout, x = Dropout(0.3), torch.randn(5, 7)
    assert dropout.eval()(x) is x
    dropout.train()
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    torch.testing.assert_close(dropout(x), first, rtol=0, atol=0)
    assert (first != second).any()


def test_places_are_the_shares_of_the_video_at_which_each_valid_clip_starts_and_ends():
    torch.manual_seed(0)
    video = torch.randn(2, 3, 4, 5)
    mask = torch.arange(4) < torch.tensor([4, 2])[:, None]
    got = with_places(video, mask)
    assert got.shape == (2, 3, 4, 7)
    assert torch.equal(got[..., :5], video)
    for b, count in enumerate((4, 2)):
        for level, t in itertools.product(range(3), range(count)):
            assert got[b, level, t, 5:].tolist() == pytest.approx([t / count, (t + 1) / count])
