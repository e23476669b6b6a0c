"""The text tower equals the official one, and unusable vocabularies are refused."""

import logging
import sys
from dataclasses import replace

import pytest
import torch

from helpers.shared_data import SHARED, needs_shared
from sdst.errors import UserError
from sdst.features.backbone.backbone import Backbone, load_backbone
from sdst.features.backbone.bert import TextTower, Tokenizer
from sdst.features.backbone.internvideo2 import VisionTower
from sdst.features.backbone.sizes import BackboneConfig, TextConfig, VisionConfig

pytest.importorskip("transformers")

ORACLE = SHARED / "oracles" / "internvideo2_stage2_tiny"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "cafe", "play", "##ing", "##s", "."]

VISION = VisionConfig(
    in_chans=3,
    img_size=4,
    patch_size=4,
    num_frames=2,
    tubelet_size=1,
    embed_dim=4,
    depth=1,
    num_heads=1,
    mlp_ratio=1,
    attn_pool_num_heads=1,
    clip_embed_dim=4,
)
TEXT = TextConfig(
    hidden_size=12,
    intermediate_size=20,
    num_attention_heads=3,
    num_hidden_layers=4,
    fusion_layer=3,
    vocab_size=len(WORDS),
    max_position_embeddings=8,
    layer_norm_eps=1e-12,
)


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def backbone(vocab):
    torch.manual_seed(0)
    tower = TextTower(TEXT).eval()
    for parameter in tower.parameters():
        parameter.data.normal_(0, 0.5)
    config = BackboneConfig(VISION, TEXT)
    return Backbone(config, VisionTower(VISION), tower, Tokenizer(vocab, TEXT), fingerprint="")


@needs_shared
def test_every_text_only_layer_equals_the_official_layer():
    oracle = pytest.importorskip("safetensors.torch").load_file(f"{ORACLE}.io.safetensors")
    tower = load_backbone(f"{ORACLE}.pt", f"{ORACLE}.config.json")._text_tower
    mask = oracle["text.attention_mask"].bool()
    states = tower(oracle["text.input_ids"], mask, range(7))
    for layer in range(7):
        expected = oracle[f"text.hidden.{layer}"][mask]
        torch.testing.assert_close(states[:, :, layer][mask], expected, rtol=0, atol=1e-5)
    last = oracle["text.last_hidden_state"][mask]
    torch.testing.assert_close(states[:, :, 6][mask], last, rtol=0, atol=1e-5)


def test_word_pieces_equal_those_of_lower_case_bert(vocab):
    ids, mask = Tokenizer(vocab, TEXT)(["A CAFÉ  plays.", "dog", ""])
    pieces = [[WORDS[i] for i in row[valid]] for row, valid in zip(ids, mask, strict=True)]
    assert pieces == [
        ["[CLS]", "a", "cafe", "play", "##s", ".", "[SEP]"],
        ["[CLS]", "[UNK]", "[SEP]"],
        ["[CLS]", "[SEP]"],
    ]
    assert not ids[~mask].any()


def test_a_sentence_is_the_same_alone_and_in_any_batch(backbone):
    sentences = ["a cat", "a cat playing cats.", ""]
    together = backbone.text(sentences, [1, 2, 3])
    assert [tuple(states.shape) for states in together] == [(4, 3, 12), (8, 3, 12), (2, 3, 12)]
    for sentence, states in zip(sentences, together, strict=True):
        torch.testing.assert_close(backbone.text([sentence], [1, 2, 3])[0], states, rtol=1e-5, atol=1e-5)


def test_layers_are_returned_in_the_requested_order(backbone):
    every = backbone.text(["a cat"], [1, 2, 3])[0]
    torch.testing.assert_close(backbone.text(["a cat"], [3, 1])[0], every[:, [2, 0]], rtol=0, atol=0)


def test_tokens_follow_the_order_of_the_sentence_with_cls_first(backbone):
    # Layer 0, before any mixing, shows which token a row belongs to.
    cat, plays = backbone.text(["cat", "plays cat"], [0])
    assert torch.equal(cat[0], plays[0])
    assert not torch.equal(cat[1], plays[1])


def test_a_long_sentence_is_cut_with_a_warning(backbone, caplog):
    with caplog.at_level(logging.WARNING):
        (states,) = backbone.text(["cat " * 20], [1])
    assert len(states) == TEXT.max_position_embeddings
    assert "cut to 8 tokens: cat cat" in caplog.text


@pytest.mark.parametrize("layer", [4, -1])
def test_a_layer_that_is_not_text_only_is_refused(backbone, layer):
    with pytest.raises(UserError, match=rf"text layer {layer} .* 1 to 3"):
        backbone.text(["a cat"], [layer])


def test_text_without_vocabulary_is_refused(backbone):
    backbone._tokenizer = None
    with pytest.raises(UserError, match=r"vocab\.txt of bert-large-uncased"):
        backbone.text(["a cat"], [1])


def test_a_vocabulary_of_another_model_is_refused(vocab):
    with pytest.raises(UserError, match=r"vocab\.txt: has 12 different words, the text tower needs 300"):
        Tokenizer(vocab, replace(TEXT, vocab_size=300))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\ncat\n", r"lacks \[PAD\], \[UNK\]"),
        (b"", r"lacks \[PAD\]"),
        (b"\xff\xfe\x00", "must be UTF-8 text, got UTF-16"),
        (None, "No such file"),
    ],
)
def test_a_file_that_does_not_hold_a_vocabulary_is_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Tokenizer(path, TEXT)


@pytest.mark.parametrize("library", ["transformers", "tokenizers"])
def test_the_message_names_a_library_that_is_not_installed(monkeypatch, vocab, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=r"pip install 'sdst\[extract\]'"):
        Tokenizer(vocab, TEXT) if library == "tokenizers" else TextTower(TEXT)
