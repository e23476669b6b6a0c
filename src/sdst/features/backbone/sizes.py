"""Sizes of the frozen backbone's towers, from a preset or a configuration file (Sec. 4)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from sdst.errors import UserError
from sdst.files.text import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE_ARCHITECTURE: dict[str, dict[str, bool | str]] = {
    "vision": {
        "qkv_bias": False,
        "qk_normalization": True,
        "sep_pos_embed": False,
        "sep_image_video_pos_embed": True,
    },
    "text": {"hidden_act": "gelu"},
}
"""Options of the official configuration that have the same value in every released stage-2 model."""


def _require_multiple(key: str, value: int, other: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{key} ({value}) must be a multiple of {other} ({divisor})")


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the vision tower, named as in the official configuration.

    Attributes:
        in_chans: Colour channels.
        img_size: Height and width of a frame in pixels.
        patch_size: Height and width of a patch in pixels.
        num_frames: Number of frames of a clip.
        tubelet_size: Number of frames that one token covers.
        embed_dim: Width of a token.
        depth: Number of blocks; layer n is the state after block n, 1 to depth.
        num_heads: Number of attention heads of a block.
        mlp_ratio: Hidden width of a block's MLP, divided by ``embed_dim``.
        attn_pool_num_heads: Number of heads of the attention pooling.
        clip_embed_dim: Width after the attention pooling.
    """

    in_chans: int
    img_size: int
    patch_size: int
    num_frames: int
    tubelet_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    attn_pool_num_heads: int
    clip_embed_dim: int

    def __post_init__(self) -> None:
        _require_multiple("embed_dim", self.embed_dim, "num_heads", self.num_heads)
        _require_multiple("embed_dim", self.embed_dim, "attn_pool_num_heads", self.attn_pool_num_heads)
        _require_multiple("img_size", self.img_size, "patch_size", self.patch_size)
        _require_multiple("num_frames", self.num_frames, "tubelet_size", self.tubelet_size)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of a clip along time, height and width."""
        side = self.img_size // self.patch_size
        return self.num_frames // self.tubelet_size, side, side


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Sizes of the BERT text tower, named as in the official configuration.

    Attributes:
        hidden_size: Width of a token.
        intermediate_size: Hidden width of a layer's MLP.
        num_attention_heads: Number of attention heads of a layer.
        num_hidden_layers: Number of all layers, including the fusion layers.
        fusion_layer: Number of text-only layers; the layers above also attend to the video and are not used.
        vocab_size: Number of words in the vocabulary.
        max_position_embeddings: Length of the longest token sequence.
        layer_norm_eps: Epsilon of the layer norms.
    """

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    fusion_layer: int
    vocab_size: int
    max_position_embeddings: int
    layer_norm_eps: float

    def __post_init__(self) -> None:
        _require_multiple("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)
        if self.fusion_layer > self.num_hidden_layers:
            raise ValueError(
                f"fusion_layer ({self.fusion_layer}) exceeds num_hidden_layers ({self.num_hidden_layers})"
            )


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """Sizes of both towers."""

    vision: VisionConfig
    text: TextConfig

    @property
    def name(self) -> str:
        """The preset's name, or one made of depth and width; it does not depend on the configuration file's path."""
        presets = (name for name, config in PRESETS.items() if config == self)
        return next(presets, f"internvideo2-{self.vision.depth}x{self.vision.embed_dim}")


PRESETS = {
    "internvideo2-1b": BackboneConfig(
        VisionConfig(
            in_chans=3,
            img_size=224,
            patch_size=14,
            num_frames=4,
            tubelet_size=1,
            embed_dim=1408,
            depth=40,
            num_heads=16,
            mlp_ratio=48 / 11,
            attn_pool_num_heads=16,
            clip_embed_dim=768,
        ),
        TextConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_attention_heads=16,
            num_hidden_layers=24,
            fusion_layer=19,
            vocab_size=30522,
            max_position_embeddings=512,
            layer_norm_eps=1e-12,
        ),
    ),
    "small-world": BackboneConfig(
        VisionConfig(
            in_chans=3,
            img_size=64,
            patch_size=8,
            num_frames=8,
            tubelet_size=8,
            embed_dim=96,
            depth=12,
            num_heads=4,
            mlp_ratio=2.0,
            attn_pool_num_heads=4,
            clip_embed_dim=96,
        ),
        TextConfig(
            hidden_size=64,
            intermediate_size=128,
            num_attention_heads=4,
            num_hidden_layers=8,
            fusion_layer=8,
            vocab_size=91,
            max_position_embeddings=32,
            layer_norm_eps=1e-12,
        ),
    ),
}
"""The released 1B stage-2 checkpoint for 4 frames of 224 pixels with its BERT-large text tower, and the small
backbone of the synthetic world (``sdst world``), whose weights come with the package. The small one is deep and narrow,
so that four levels are at most a third of its vision blocks."""

SHIPPED = {"small-world": Path(__file__).parents[1] / "small_world"}
"""Presets whose ``weights.safetensors`` and ``vocab.txt`` come with the package -> their folder."""

Sizes = TypeVar("Sizes", VisionConfig, TextConfig)


def read_config(source: str | Path) -> BackboneConfig:
    """Read the sizes of a preset, or of a JSON file with the sections ``vision`` and ``text``.

    The official configuration file works unchanged: keys that only concern training or the choice of kernels are
    ignored.

    Raises:
        UserError: The preset or file does not exist, a size is missing or impossible, or the architecture is not
            that of stage-2 models.
    """
    if str(source) in PRESETS:
        return PRESETS[str(source)]
    try:
        sections = json.loads(read_text(source))
    except UserError as error:
        raise UserError(f"{error}, or give {' or '.join(PRESETS)}") from error
    except ValueError as error:
        raise UserError(
            f"{source}: not a JSON file ({error}); give a JSON file or a preset's name"
        ) from error
    try:
        return BackboneConfig(
            _read_section(VisionConfig, sections, "vision"), _read_section(TextConfig, sections, "text")
        )
    except ValueError as error:
        raise UserError(f"{source}: {error}; correct the backbone's configuration") from error


def _read_section(kind: type[Sizes], sections: Any, name: str) -> Sizes:
    section = sections.get(name) if isinstance(sections, dict) else None
    if not isinstance(section, dict):
        raise ValueError(f"has no section '{name}'")
    for key, value in ONE_ARCHITECTURE[name].items():
        if section.get(key, value) != value:
            raise ValueError(f"{name}.{key} must be {value!r} as in stage-2 towers, got {section[key]!r}")
    sizes = {key: _read_size(section, key, wanted, name) for key, wanted in get_type_hints(kind).items()}
    try:
        return kind(**sizes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _read_size(section: Mapping[str, Any], key: str, wanted: type, name: str) -> Any:
    if key not in section:
        raise ValueError(f"{name}.{key} is missing")
    value = section[key]
    if type(value) not in {int, wanted} or not 0 < value < math.inf:
        raise ValueError(f"{name}.{key} must be a positive {wanted.__name__}, got {value!r}")
    return value
