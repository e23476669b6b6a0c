"""The frozen backbone, InternVideo2 stage-2 (Sec. 4): both towers as one object, and its pixel constants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdst.errors import UserError
from sdst.features.backbone.sizes import SHIPPED, read_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdst.features.backbone.bert import TextTower, Tokenizer
    from sdst.features.backbone.internvideo2 import VisionTower
    from sdst.features.backbone.sizes import BackboneConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue, subtracted from pixels in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue; the result is divided by it."""


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
            frames: (N, 3, F, H, W) clips, normalised with ``IMAGENET_MEAN`` and ``IMAGENET_STD``; ``VisionTower``
                says which numbers and sizes of frames are allowed.
            layers: Block numbers, 1 to ``depth``; the result keeps their order.
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
            layers: Layer numbers, 1 to ``fusion_layer``; the result keeps their order.

        Returns:
            One (L, n_layers, Dt) float32 tensor per sentence: CLS first, SEP last, no padding.

        Raises:
            UserError: The backbone was loaded without a vocabulary.
        """
        if self._tokenizer is None:
            raise UserError("encoding text needs the vocab.txt of bert-large-uncased; give it with --vocab")
        input_ids, mask = (tensor.to(self._device) for tensor in self._tokenizer(sentences))
        states = self._text_tower(input_ids, mask, layers)
        return [rows[valid] for rows, valid in zip(states, mask, strict=True)]

    def unknown_words(self, sentence: str) -> tuple[str, ...]:
        """Words of a sentence that the vocabulary lacks, in lower case; empty without a vocabulary."""
        return () if self._tokenizer is None else self._tokenizer.unknown_words(sentence)

    def recipe(self) -> dict[str, str | int | list[float]]:
        """Settings that must be the same for the training features and all later ones.

        Precision and device are not among them, because they only change the rounding.
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
    """Build both towers and load their weights from an official checkpoint.

    Args:
        checkpoint: A ``.pt`` or ``.safetensors`` file; None takes the weights and the vocabulary that come with
            the package, if the configuration is one of ``SHIPPED``.
        config: Name of a preset, or a JSON file (``read_config``).
        vocab: The ``vocab.txt`` of bert-large-uncased; only ``Backbone.text`` needs it.
        device: Device of the towers.
        dtype: Precision of the matrix products. Norms and the residual sum of the vision tower stay float32, so
            float16 does not overflow there.

    Raises:
        UserError: A file is missing, damaged or does not fit the configuration, or a library of the ``extract``
            extra is not installed.
    """
    from sdst.features.backbone.bert import TextTower, Tokenizer
    from sdst.features.backbone.internvideo2 import VisionTower
    from sdst.features.backbone.weights import load_towers

    sizes = read_config(config)
    if checkpoint is None:
        if str(config) not in SHIPPED:
            raise UserError(
                f"backbone {config}: its weights do not come with the package; give its checkpoint and vocab.txt"
            )
        folder = SHIPPED[str(config)]
        checkpoint, vocab = folder / "weights.safetensors", folder / "vocab.txt"
    tokenizer = None if vocab is None else Tokenizer(vocab, sizes.text)
    with torch.device("meta"):  # no initial values, because the checkpoint has all of them
        vision_tower, text_tower = VisionTower(sizes.vision), TextTower(sizes.text)
    towers = nn.ModuleDict({"vision_encoder": vision_tower, "text_encoder": text_tower})
    fingerprint = load_towers(checkpoint, towers, sizes.text, device=device, dtype=dtype)
    towers.eval().requires_grad_(False)
    return Backbone(sizes, vision_tower, text_tower, tokenizer, fingerprint)


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device with that name; None means the first GPU, or the CPU if there is none.

    Raises:
        UserError: This machine does not have the device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {device}: cannot be used ({reason}); choose another with --device"
        ) from error
