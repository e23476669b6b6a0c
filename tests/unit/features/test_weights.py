import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.shared_data import SHARED, needs_shared
from sdst.errors import UserError
from sdst.features.backbone.backbone import load_backbone
from sdst.features.backbone.bert import TextTower
from sdst.features.backbone.internvideo2 import VisionTower
from sdst.features.backbone.sizes import PRESETS, BackboneConfig, TextConfig, VisionConfig, read_config

pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

ORACLE = SHARED / "oracles" / "internvideo2_stage2_tiny"

CONFIG = BackboneConfig(
    VisionConfig(
        in_chans=3,
        img_size=12,
        patch_size=6,
        num_frames=3,
        tubelet_size=1,
        embed_dim=8,
        depth=2,
        num_heads=2,
        mlp_ratio=1.5,
        attn_pool_num_heads=4,
        clip_embed_dim=5,
    ),
    TextConfig(
        hidden_size=6,
        intermediate_size=7,
        num_attention_heads=2,
        num_hidden_layers=3,
        fusion_layer=2,
        vocab_size=11,
        max_position_embeddings=9,
        layer_norm_eps=1e-12,
    ),
)
UNUSED = (
    "vision_encoder.clip_pos_embed",
    "vision_encoder.clip_decoder.0.head.weight",
    "vision_encoder.final_clip_decoder.norm.bias",
    "text_encoder.bert.embeddings.position_ids",
    "text_encoder.bert.encoder.layer.2.crossattention.self.key.weight",
    "text_encoder.cls.predictions.bias",
    "vision_proj.weight",
    "text_proj.bias",
    "itm_head.weight",
    "temp",
)


@pytest.fixture
def config_file(tmp_path):
    return write_config(tmp_path, asdict(CONFIG))


@pytest.fixture
def weights():
    torch.manual_seed(0)
    vision_tower, text_tower = VisionTower(CONFIG.vision), TextTower(CONFIG.text)
    towers = nn.ModuleDict({"vision_encoder": vision_tower, "text_encoder": text_tower})
    trained = {name: torch.randn_like(tensor) for name, tensor in towers.state_dict().items()}
    return trained | {name: torch.ones(3) for name in UNUSED}


def write_config(folder, sections):
    path = folder / "config.json"
    path.write_text(json.dumps(sections))
    return path


def save(weights, folder, name="c.pt"):
    path = folder / name
    torch.save({"module": weights}, path)
    return path


def parameters(backbone):
    towers = nn.ModuleDict({"vision_encoder": backbone._vision_tower, "text_encoder": backbone._text_tower})
    return towers.state_dict()


@pytest.mark.parametrize("layout", ["module", "model", "bare", "old format", "safetensors"])
def test_every_layout_loads_every_tensor(tmp_path, config_file, weights, layout):
    path = tmp_path / ("c.safetensors" if layout == "safetensors" else "c.pt")
    if layout == "safetensors":
        safetensors.save_file(weights, path)
    else:
        wrapped = {layout: weights, "epoch": 3} if layout in {"module", "model"} else weights
        torch.save(wrapped, path, _use_new_zipfile_serialization=layout != "old format")
    backbone = load_backbone(path, config_file)
    loaded = parameters(backbone)
    assert set(weights) - set(loaded) == set(UNUSED)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, weights[name]), name
    assert backbone.vision(torch.ones(1, 3, 3, 12, 12), [2], ["adaptive"])["adaptive"].shape == (1, 1, 5)


def test_towers_are_frozen_in_the_requested_precision(tmp_path, config_file, weights):
    backbone = load_backbone(save(weights, tmp_path), config_file, dtype=torch.bfloat16)
    for tower in (backbone._vision_tower, backbone._text_tower):
        assert not tower.training
        assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in tower.parameters())


def test_unused_tensors_are_listed(tmp_path, config_file, weights, caplog):
    with caplog.at_level("INFO"):
        load_backbone(save(weights, tmp_path), config_file)
    for family in ("clip_decoder. (1)", "bert.encoder.layer.2. (1)", "text_encoder.cls. (1)", "temp (1)"):
        assert family in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "vision_encoder.blocks.2.norm1.weight",
        "vision_encoder.clip_pos_embed_spatial",
        "text_encoder.bert.encoder.layer.1.crossattention.self.key.weight",
        "text_encoder.bert.encoder.layer.3.output.dense.bias",
        "temperature",
    ],
)
def test_an_unknown_tensor_is_refused(tmp_path, config_file, weights, name):
    path = save(weights | {name: torch.ones(3)}, tmp_path)
    with pytest.raises(UserError, match=rf"c\.pt: has unexpected {name};"):
        load_backbone(path, config_file)


def test_missing_tensors_are_named(tmp_path, config_file, weights):
    names = ["vision_encoder.img_pos_embed", "text_encoder.bert.encoder.layer.1.output.dense.bias"]
    for name in names:
        del weights[name]
    with pytest.raises(UserError, match=rf"c\.pt: lacks {', '.join(names)};"):
        load_backbone(save(weights, tmp_path), config_file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 4}, r"pos_embed of shape \(1, 13, 8\), not \(1, 17, 8\) as configured"),
        ({"img_size": 18}, r"img_pos_embed of shape \(1, 5, 8\), not \(1, 10, 8\) as configured"),
        ({"depth": 3}, r"lacks vision_encoder\.blocks\.2\.norm1\.weight.* and \d+ more"),
        ({"depth": 1}, r"unexpected vision_encoder\.blocks\.1\.norm1\.weight"),
        ({"mlp_ratio": 2.0}, r"mlp\.fc1\.weight of shape \(12, 8\), not \(16, 8\)"),
    ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path, weights, changes, message):
    other = replace(CONFIG, vision=replace(CONFIG.vision, **changes))
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(save(weights, tmp_path), write_config(tmp_path, asdict(other)))
    assert "\n" not in str(caught.value)


def test_the_fingerprint_depends_only_on_the_weights(tmp_path, config_file, weights):
    path = save(weights, tmp_path)
    safetensors.save_file(weights, tmp_path / "same.safetensors")
    recipe = load_backbone(path, config_file).recipe()
    assert load_backbone(path, config_file, dtype=torch.float16).recipe() == recipe
    assert load_backbone(tmp_path / "same.safetensors", config_file).recipe() == recipe
    weights["vision_encoder.clip_projector.cross_attn.proj.weight"][0, 0] += 1
    other = load_backbone(save(weights, tmp_path, "other.pt"), config_file).recipe()
    assert {key for key in recipe if recipe[key] != other[key]} == {"backbone_weights"}


def test_the_recipe_is_plain_and_states_the_input_sizes(tmp_path, config_file, weights):
    recipe = load_backbone(save(weights, tmp_path), config_file).recipe()
    assert json.loads(json.dumps(recipe)) == recipe
    assert recipe["backbone"] == "internvideo2-2x8"
    assert (recipe["frames_per_clip"], recipe["image_size"]) == (3, 12)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "random", "cut", "object", "no tensors"])
def test_a_broken_file_is_refused_in_one_line(tmp_path, config_file, weights, suffix, damage):
    path = tmp_path / f"c{suffix}"
    if suffix == ".pt":
        torch.save(weights, path)
    else:
        safetensors.save_file(weights, path)
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "random":
            path.write_bytes(bytes(range(256)) * 8)
        case "cut":
            path.write_bytes(path.read_bytes()[:-1000])
        case "object":
            torch.save({"module": Path}, path)
        case "no tensors":
            torch.save({"module": {"epoch": 1}}, path)
    with pytest.raises(UserError, match=rf"c\{suffix}: ") as caught:
        load_backbone(path, config_file)
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path, config_file):
    with pytest.raises(UserError, match=r"absent\.pt: no such file"):
        load_backbone(tmp_path / "absent.pt", config_file)


def test_a_missing_safetensors_library_is_named(tmp_path, config_file, weights, monkeypatch):
    safetensors.save_file(weights, tmp_path / "c.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"needs safetensors.*pip install 'sdst\[extract\]'"):
        load_backbone(tmp_path / "c.safetensors", config_file)


# The configuration file


def test_a_configuration_reads_back(config_file):
    assert read_config(config_file) == CONFIG
    assert read_config("internvideo2-1b") is PRESETS["internvideo2-1b"]


@needs_shared
def test_the_official_configuration_file_can_be_read():
    config = read_config(f"{ORACLE}.config.json")
    assert (config.vision.depth, config.vision.embed_dim, config.vision.grid) == (5, 176, (4, 4, 4))
    assert (config.text.fusion_layer, config.text.num_hidden_layers) == (6, 8)


def test_a_file_with_a_presets_sizes_has_its_name(tmp_path):
    path = write_config(tmp_path, asdict(PRESETS["internvideo2-1b"]))
    assert read_config(path).name == "internvideo2-1b"


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("vision", "depth", None, "vision.depth must be a positive int, got None"),
        ("vision", "depth", 2.5, "vision.depth must be a positive int, got 2.5"),
        ("vision", "depth", True, "vision.depth must be a positive int, got True"),
        ("vision", "mlp_ratio", "4", "vision.mlp_ratio must be a positive float, got '4'"),
        ("vision", "mlp_ratio", float("nan"), "vision.mlp_ratio must be a positive float, got nan"),
        ("vision", "num_frames", 0, "vision.num_frames must be a positive int, got 0"),
        ("vision", "num_heads", 3, r"vision: embed_dim \(8\) must be a multiple of num_heads \(3\)"),
        ("vision", "img_size", 13, r"vision: img_size \(13\) must be a multiple of patch_size \(6\)"),
        ("vision", "qkv_bias", True, "vision.qkv_bias must be False as in stage-2 towers, got True"),
        ("text", "hidden_act", "relu", "text.hidden_act must be 'gelu' as in stage-2 towers, got 'relu'"),
        ("text", "fusion_layer", 4, r"text: fusion_layer \(4\) exceeds num_hidden_layers \(3\)"),
    ],
)
def test_an_impossible_configuration_is_refused(tmp_path, section, key, value, message):
    sections = asdict(CONFIG)
    sections[section][key] = value
    with pytest.raises(UserError, match=rf"config\.json: {message}"):
        read_config(write_config(tmp_path, sections))


@pytest.mark.parametrize("key", ["depth", "patch_size", "clip_embed_dim"])
def test_a_missing_size_is_named(tmp_path, key):
    sections = asdict(CONFIG)
    del sections["vision"][key]
    with pytest.raises(UserError, match=rf"vision\.{key} is missing"):
        read_config(write_config(tmp_path, sections))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no section 'vision'"),
        ('{"vision": 3}', "no section 'vision'"),
        ("{", "not a JSON file"),
        (None, "No such file .* internvideo2-1b"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_config(path)
