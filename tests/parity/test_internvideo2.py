"""The vision tower equals the official InternVideo2 and a version in plain loops."""

import json
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.shared_data import SHARED, needs_shared
from sdst.errors import UserError
from sdst.features.backbone.backbone import load_backbone
from sdst.features.backbone.internvideo2 import VisionTower, resize_positions
from sdst.features.backbone.sizes import PRESETS, VisionConfig
from sdst.features.backbone.weights import split_unused

ORACLE = SHARED / "oracles" / "internvideo2_stage2_tiny"
ALL = ("cls", "avg", "adaptive")

SMALL = VisionConfig(
    in_chans=3,
    img_size=12,
    patch_size=4,
    num_frames=6,
    tubelet_size=2,
    embed_dim=24,
    depth=3,
    num_heads=3,
    mlp_ratio=2.5,
    attn_pool_num_heads=2,
    clip_embed_dim=10,
)


@pytest.fixture
def tower():
    return random_tower(SMALL)


@pytest.fixture
def clips():
    return torch.randn(2, 3, 6, 12, 12, generator=torch.Generator().manual_seed(1))


def random_tower(config):
    tower = VisionTower(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in tower.parameters():
        parameter.normal_(0, 0.4, generator=generator)
    return tower


# The same network as loops over clips, tokens and heads, computed only from the state dict.


def naive_states(weights, config, clip):
    tokens = [weights["cls_token"][0, 0]]
    kernel, step, patch = weights["patch_embed.proj.weight"], config.tubelet_size, config.patch_size
    for t in range(0, clip.shape[1], step):
        for y in range(0, clip.shape[2], patch):
            for x in range(0, clip.shape[3], patch):
                cube = clip[:, t : t + step, y : y + patch, x : x + patch]
                tokens.append((kernel * cube).sum(dim=(1, 2, 3, 4)) + weights["patch_embed.proj.bias"])
    x = torch.stack(tokens) + weights["pos_embed"][0]
    states = []
    for number in range(config.depth):
        w = {k.removeprefix(f"blocks.{number}."): v for k, v in weights.items() if f"blocks.{number}." in k}
        q, k, v = (naive_rms(x, w["norm1.weight"]) @ w["attn.qkv.weight"].T).split(config.embed_dim, dim=1)
        q, k = naive_rms(q, w["attn.q_norm.weight"]), naive_rms(k, w["attn.k_norm.weight"])
        mixed = naive_attention(q, k, v, config.num_heads)
        x = x + w["ls1.gamma"] * (mixed @ w["attn.proj.weight"].T + w["attn.proj.bias"])
        hidden = naive_rms(x, w["norm2.weight"]) @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + w["ls2.gamma"] * (hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"])
        states.append(x)
    return states


def naive_rms(x, weight):
    return torch.stack([row / math.sqrt((row**2).mean() + 1e-6) * weight for row in x])


def naive_layer_norm(x, weights, name):
    scaled = [(row - row.mean()) / math.sqrt(row.var(unbiased=False) + 1e-5) for row in x]
    return torch.stack(scaled) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def naive_attention(q, k, v, num_heads):
    heads = []
    for q_h, k_h, v_h in zip(*(x.chunk(num_heads, dim=1) for x in (q, k, v)), strict=True):
        scores = torch.stack([k_h @ row / math.sqrt(len(row)) for row in q_h])
        heads.append(torch.exp(scores) / torch.exp(scores).sum(dim=1, keepdim=True) @ v_h)
    return torch.cat(heads, dim=1)


def naive_adaptive(weights, config, tokens):
    w = {k.removeprefix("clip_projector."): v for k, v in weights.items() if k.startswith("clip_projector.")}
    inputs = {"q": tokens.mean(dim=0)[None], "k": tokens, "v": tokens}
    q, k, v = (
        naive_layer_norm(x, w, f"norm1_{n}") @ w[f"cross_attn.{n}.weight"].T + w[f"cross_attn.{n}_bias"]
        for n, x in inputs.items()
    )
    mixed = naive_attention(q, k, v, config.attn_pool_num_heads)
    return (mixed @ w["cross_attn.proj.weight"].T + w["cross_attn.proj.bias"])[0]


def test_states_and_pooling_equal_loops(tower, clips):
    weights = tower.state_dict()
    result = tower(clips, [1, 2, 3], ALL)
    for n, clip in enumerate(clips):
        for i, tokens in enumerate(naive_states(weights, SMALL, clip)):
            expected = {
                "cls": tokens[0],
                "avg": tokens.mean(dim=0),
                "adaptive": naive_adaptive(weights, SMALL, tokens),
            }
            for pooling in ALL:
                torch.testing.assert_close(result[pooling][n, i], expected[pooling], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def official():
    return load_backbone(f"{ORACLE}.pt", f"{ORACLE}.config.json")


@pytest.fixture(scope="module")
def oracle():
    return pytest.importorskip("safetensors.torch").load_file(f"{ORACLE}.io.safetensors")


@needs_shared
def test_tokens_of_every_layer_equal_the_official_tokens(official, oracle):
    states = list(official._vision_tower.states(oracle["vision.video"]))
    assert len(states) == 5
    for i, tokens in enumerate(states):
        torch.testing.assert_close(tokens, oracle[f"vision.tokens.{i}"], rtol=0, atol=1e-5)


@needs_shared
@pytest.mark.parametrize("pooling", ALL)
def test_pooling_of_every_layer_equals_the_official_pooling(official, oracle, pooling):
    result = official.vision(oracle["vision.video"], [1, 2, 3, 4, 5], [pooling])[pooling]
    for i in range(5):
        torch.testing.assert_close(result[:, i], oracle[f"vision.{pooling}.{i}"], rtol=0, atol=1e-5)


@needs_shared
def test_a_single_frame_uses_the_image_positions(official, oracle):
    frame = oracle["vision.video"][:, :, :1]
    result = official.vision(frame, [5], ["adaptive"])["adaptive"]
    torch.testing.assert_close(result[:, 0], oracle["vision.official.image_pooled"], rtol=0, atol=1e-5)


@needs_shared
def test_1b_preset_has_the_layout_of_the_official_checkpoint():
    layout = json.loads((SHARED / "oracles" / "internvideo2_1b_stage2.vision_layout.json").read_text())
    assert len(layout) == 569
    preset = PRESETS["internvideo2-1b"]
    with torch.device("meta"):
        tower = VisionTower(preset.vision)
        official = {name: torch.empty(shape) for name, shape in layout.items()}
    used, unused = split_unused(official, preset.text)
    ours = {f"vision_encoder.{name}": tensor.shape for name, tensor in tower.state_dict().items()}
    assert {name: tensor.shape for name, tensor in used.items()} == ours
    assert len(used) + unused.total() == 569


def test_layers_are_returned_in_the_requested_order_and_may_repeat(tower, clips):
    every = tower(clips, [1, 2, 3], ["avg"])["avg"]
    some = tower(clips, [3, 1, 3], ["avg"])["avg"]
    torch.testing.assert_close(some, every[:, [2, 0, 2]], rtol=0, atol=0)


def test_a_batch_gives_the_same_features_as_its_clips_one_by_one(tower, clips):
    together = tower(clips, [3], ["adaptive"])["adaptive"]
    alone = torch.cat([tower(clip[None], [3], ["adaptive"])["adaptive"] for clip in clips])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_blocks_above_the_last_requested_layer_do_not_run(tower, clips):
    def refuse(*_):
        raise AssertionError("block 3 ran")

    tower.blocks[2].register_forward_pre_hook(refuse)
    tower(clips, [2], ["avg"])
    with pytest.raises(AssertionError, match="block 3 ran"):
        tower(clips, [3], ["avg"])


def test_a_layers_tokens_are_freed_before_the_next_layer_is_pooled(tower, clips, monkeypatch):
    seen = []
    pool = tower.pool

    def watch(tokens, pooling):
        assert [ref() for ref in seen if ref() is not tokens] == [None] * len(seen)
        if pooling == ALL[-1]:
            seen.append(weakref.ref(tokens))
        return pool(tokens, pooling)

    monkeypatch.setattr(tower, "pool", watch)
    tower(clips, [1, 2, 3], ALL)
    assert len(seen) == 3


def test_features_never_require_gradients_and_states_do_only_in_training(clips):
    tower = VisionTower(SMALL)
    assert not tower(clips, [1], ["adaptive"])["adaptive"].requires_grad
    assert next(tower.states(clips)).requires_grad
    tower.requires_grad_(False)
    assert not next(tower.states(clips)).requires_grad


@pytest.mark.parametrize("layer", [0, 4, -1])
def test_an_unknown_layer_is_refused(tower, clips, layer):
    with pytest.raises(UserError, match=rf"vision layer {layer} .* 1 to 3"):
        tower(clips, [1, layer], ["avg"])


def test_an_unknown_pooling_is_refused(tower, clips):
    with pytest.raises(UserError, match=r"'mean' .* cls, avg, adaptive"):
        tower(clips, [1], ["mean"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_is_close_to_float32(tower, clips, dtype, tolerance):
    exact = tower(clips, [1, 3], ALL)
    half = random_tower(SMALL).to(dtype)(clips, [1, 3], ALL)
    for pooling in ALL:
        assert half[pooling].dtype == torch.float32
        error = (half[pooling] - exact[pooling]).norm() / exact[pooling].norm()
        assert 0 < error < tolerance


def test_states_beyond_the_range_of_float16_stay_finite(tower, clips):
    for block in tower.blocks:
        block.ls1.gamma.fill_(3e4)
        block.ls2.gamma.fill_(3e4)
    exact = list(tower.states(clips))
    assert exact[-1].abs().max() > torch.finfo(torch.float16).max
    for state, half in zip(exact, tower.half().states(clips), strict=True):
        assert (half - state).norm() / state.norm() < 0.02


# Interpolated positions equal loops over output positions with the textbook half-pixel rule.


def naive_linear(values, size):
    places = (np.arange(size) + 0.5) * len(values) / size - 0.5
    return np.interp(places, np.arange(len(values)), values)


def naive_cubic(values, size):
    """Cubic convolution with a = -0.75, edge values repeated."""
    out = []
    for i in range(size):
        place = (i + 0.5) * len(values) / size - 0.5
        first = math.floor(place) - 1
        total = 0.0
        for j in range(first, first + 4):
            d = abs(place - j)
            near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
            total += (near if d <= 1 else far) * values[min(max(j, 0), len(values) - 1)]
        out.append(total)
    return np.array(out)


grids = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))


@settings(max_examples=30, deadline=None)
@given(stored=grids, wanted=grids, seed=st.integers(0, 2**31))
def test_positions_are_resized_linearly_in_time_and_bicubically_in_space(stored, wanted, seed):
    values = np.random.default_rng(seed).normal(size=(*stored, 3))
    flat = np.concatenate([np.full((1, 3), 7.0), values.reshape(-1, 3)])
    result = resize_positions(torch.from_numpy(flat)[None], stored, wanted)[0].numpy()
    expected = np.apply_along_axis(naive_linear, 0, values, wanted[0])
    expected = np.apply_along_axis(naive_cubic, 1, expected, wanted[1])
    expected = np.apply_along_axis(naive_cubic, 2, expected, wanted[2])
    np.testing.assert_array_equal(result[0], 7.0)
    np.testing.assert_allclose(result[1:], expected.reshape(-1, 3), atol=1e-9)


@pytest.mark.parametrize(("num_frames", "img_size"), [(10, 12), (6, 20), (2, 8)])
def test_clips_of_another_shape_give_the_features_of_a_tower_built_for_that_shape(
    tower, num_frames, img_size
):
    config = replace(SMALL, num_frames=num_frames, img_size=img_size)
    made_for_them = VisionTower(config).eval()
    weights = tower.state_dict()
    weights["pos_embed"] = resize_positions(weights["pos_embed"], SMALL.grid, config.grid)
    image_grids = (1, *SMALL.grid[1:]), (1, *config.grid[1:])
    weights["img_pos_embed"] = resize_positions(weights["img_pos_embed"], *image_grids)
    made_for_them.load_state_dict(weights)
    clip = torch.randn(1, 3, num_frames, img_size, img_size, generator=torch.Generator().manual_seed(3))
    expected = made_for_them(clip, [3], ["avg"])["avg"]
    torch.testing.assert_close(tower(clip, [3], ["avg"])["avg"], expected, rtol=0, atol=0)


def test_one_frame_of_another_size_uses_resized_image_positions():
    tower = random_tower(replace(SMALL, tubelet_size=1))
    frame = torch.randn(1, 3, 1, 20, 8, generator=torch.Generator().manual_seed(3))
    positions = resize_positions(tower.img_pos_embed, (1, 3, 3), (1, 5, 2))
    with_positions = tower._embed(frame)
    tower.img_pos_embed.zero_()
    torch.testing.assert_close(with_positions, tower._embed(frame) + positions, rtol=0, atol=0)
