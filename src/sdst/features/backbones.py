"""The frozen backbone, InternVideo2 stage-2 (Sec. 4): sizes, pixel constants, both towers as one object."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import torch
from torch import nn

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from sdst.features.internvideo2 import VisionTower
    from sdst.features.text import TextTower, Tokenizer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""What is subtracted from the red, green and blue of pixels in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What they are then divided by."""

ONE_ARCHITECTURE: dict[str, dict[str, bool | str]] = {
    "vision": {
        "qkv_bias": False,
        "qk_normalization": True,
        "sep_pos_embed": False,
        "sep_image_video_pos_embed": True,
    },
    "text": {"hidden_act": "gelu"},
}
"""Switches of the official configuration that have one value in every released stage-2 model."""


def _require_multiple(key: str, value: int, other: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{key} ({value}) is no multiple of {other} ({divisor})")


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the vision tower, named as in the official configuration.

    Attributes:
        in_chans: Colour channels.
        img_size: Height and width of a frame in pixels.
        patch_size: Height and width of a patch in pixels.
        num_frames: Frames of a clip.
        tubelet_size: Frames that one token covers.
        embed_dim: Width of a token.
        depth: Number of blocks; layer n is the state after block n, 1 to depth.
        num_heads: Attention heads of a block.
        mlp_ratio: Hidden width of a block's MLP over ``embed_dim``.
        attn_pool_num_heads: Heads of the attention pooling.
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
        num_attention_heads: Attention heads of a layer.
        num_hidden_layers: All layers, the fusion layers included.
        fusion_layer: Number of text-only layers; those above also look at the video and are not used.
        vocab_size: Words in the vocabulary.
        max_position_embeddings: The longest token sequence.
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
        """The preset's name, or one made of depth and width: files and paths do not change it."""
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
            img_size=96,
            patch_size=12,
            num_frames=8,
            tubelet_size=8,
            embed_dim=128,
            depth=5,
            num_heads=4,
            mlp_ratio=3.0,
            attn_pool_num_heads=4,
            clip_embed_dim=128,
        ),
        TextConfig(
            hidden_size=96,
            intermediate_size=288,
            num_attention_heads=4,
            num_hidden_layers=4,
            fusion_layer=4,
            vocab_size=91,
            max_position_embeddings=32,
            layer_norm_eps=1e-12,
        ),
    ),
}
"""The released 1B stage-2 checkpoint for 4 frames of 224 pixels with its BERT-large text tower, and the small
backbone of the invented world (``sdst world``), whose weights come with the package."""

SHIPPED = {"small-world": Path(__file__).parent / "small_world"}
"""Presets whose ``weights.safetensors`` and ``vocab.txt`` come with the package, and where."""

Sizes = TypeVar("Sizes", VisionConfig, TextConfig)


def read_config(source: str | Path) -> BackboneConfig:
    """The sizes of a preset, or of a JSON file with the sections ``vision`` and ``text``.

    A file may be the official configuration as it is: keys that only concern training or a choice of kernels
    are ignored.

    Raises:
        UserError: No such preset or file, a missing or impossible size, or another architecture.
    """
    if str(source) in PRESETS:
        return PRESETS[str(source)]
    try:
        sections = json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{source}: cannot be read ({error.strerror}); give a JSON file or {' or '.join(PRESETS)}"
        ) from error
    except ValueError as error:
        raise UserError(f"{source}: not a JSON file ({error}); give one or a preset's name") from error
    try:
        return BackboneConfig(
            _read_section(VisionConfig, sections, "vision"), _read_section(TextConfig, sections, "text")
        )
    except ValueError as error:
        raise UserError(f"{source}: {error}; correct the backbone's configuration") from error


class Backbone:
    """Both frozen towers on one device.

    Attributes:
        vision_config: Sizes of the vision tower.
        text_config: Sizes of the text tower.
    """

    def __init__(
        self,
        config: BackboneConfig,
        vision_tower: VisionTower,
        text_tower: TextTower,
        tokenizer: Tokenizer | None,
        fingerprint: str,
    ) -> None:
        self.vision_config = config.vision
        self.text_config = config.text
        self._name = config.name
        self._vision_tower = vision_tower
        self._text_tower = text_tower
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint

    def vision(self, frames: Tensor, layers: Sequence[int], poolings: Sequence[str]) -> dict[str, Tensor]:
        """Pooled states of clips after the given blocks (eq. 15), on the backbone's device.

        Args:
            frames: (N, 3, F, H, W) clips, normalised with ``IMAGENET_MEAN`` and ``IMAGENET_STD``; see
                ``VisionTower`` for other numbers and sizes of frames than configured.
            layers: Block numbers, 1 to ``depth``; the result has their order.
            poolings: Any of ``cls``, ``avg``, ``adaptive``.

        Returns:
            pooling -> (N, n_layers, Dv) float32.
        """
        pooled: dict[str, Tensor] = self._vision_tower(frames.to(self._device), layers, poolings)
        return pooled

    def text(self, sentences: Sequence[str], layers: Sequence[int]) -> list[Tensor]:
        """Token states of sentences after the given text-only layers, on the backbone's device.

        Args:
            sentences: Queries as written; they are lower-cased and get no prefix.
            layers: Layer numbers, 1 to ``fusion_layer``; the result has their order.

        Returns:
            One (L, n_layers, Dt) float32 per sentence: CLS first, SEP last, no padding.

        Raises:
            UserError: The backbone was loaded without a vocabulary.
        """
        if self._tokenizer is None:
            raise UserError("encoding text needs the vocab.txt of bert-large-uncased; name it with --vocab")
        input_ids, mask = (tensor.to(self._device) for tensor in self._tokenizer(sentences))
        states = self._text_tower(input_ids, mask, layers)
        return [rows[valid] for rows, valid in zip(states, mask, strict=True)]

    def recipe(self) -> dict[str, str | int | list[float]]:
        """What must agree between the features a model was trained on and those it is given later.

        Neither the precision nor the device is part of it: they change features by rounding alone.
        """
        return {
            "backbone": self._name,
            "backbone_weights": self._fingerprint,
            "frames_per_clip": self.vision_config.num_frames,
            "image_size": self.vision_config.img_size,
            "pixel_mean": list(IMAGENET_MEAN),
            "pixel_std": list(IMAGENET_STD),
            "text_prefix": "",
        }

    @property
    def _device(self) -> torch.device:
        return self._vision_tower.cls_token.device


def load_backbone(
    checkpoint: str | Path | None,
    config: str | Path = "internvideo2-1b",
    *,
    vocab: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Build both towers and fill them from an official checkpoint.

    Args:
        checkpoint: A ``.pt`` or ``.safetensors`` file; None takes the weights and the vocabulary that come with
            the package, if the configuration is one of ``SHIPPED``.
        config: A preset's name or a JSON file (``read_config``).
        vocab: The ``vocab.txt`` of bert-large-uncased; only ``Backbone.text`` needs it.
        device: Where the towers are put.
        dtype: Precision of the matrix products. Norms and the sum of block outputs stay float32 in the vision
            tower, so float16 does not overflow there.

    Raises:
        UserError: A file that is not there, broken, or at odds with the configuration; a library of the
            ``extract`` extra that is not installed.
    """
    from sdst.features.checkpoint import load_towers
    from sdst.features.internvideo2 import VisionTower
    from sdst.features.text import TextTower, Tokenizer

    sizes = read_config(config)
    if checkpoint is None:
        if str(config) not in SHIPPED:
            raise UserError(
                f"backbone {config}: its weights do not come with the package; give its checkpoint and vocab.txt"
            )
        folder = SHIPPED[str(config)]
        checkpoint, vocab = folder / "weights.safetensors", folder / "vocab.txt"
    tokenizer = None if vocab is None else Tokenizer(vocab, sizes.text)
    with torch.device("meta"):  # no memory and no time for initial values: the checkpoint has them all
        vision_tower, text_tower = VisionTower(sizes.vision), TextTower(sizes.text)
    towers = nn.ModuleDict({"vision_encoder": vision_tower, "text_encoder": text_tower})
    fingerprint = load_towers(checkpoint, towers, sizes.text, device=device, dtype=dtype)
    towers.eval().requires_grad_(False)
    return Backbone(sizes, vision_tower, text_tower, tokenizer, fingerprint)


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device of that name; None means the first GPU, else the CPU.

    Raises:
        UserError: There is no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: cannot be used ({str(error).splitlines()[0]})") from error


def _read_section(kind: type[Sizes], sections: Any, name: str) -> Sizes:
    section = sections.get(name) if isinstance(sections, dict) else None
    if not isinstance(section, dict):
        raise ValueError(f"has no section '{name}'")
    for key, value in ONE_ARCHITECTURE[name].items():
        if section.get(key, value) != value:
            raise ValueError(f"{name}.{key} is {section[key]!r}, but stage-2 towers have {value!r}")
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
        raise ValueError(f"{name}.{key} is {value!r}, not a positive {wanted.__name__}")
    return value
