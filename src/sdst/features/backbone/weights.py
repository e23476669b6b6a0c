"""Load an official InternVideo2 stage-2 checkpoint into the towers, strictly."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdst.errors import UserError
from sdst.untrusted.archives import require_backed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from sdst.features.backbone.sizes import TextConfig

logger = logging.getLogger(__name__)

WRAPPERS = ("module", "model")
"""Keys under which training frameworks put the state dict in a ``.pt`` file."""

UNUSED = (
    "vision_encoder.clip_pos_embed",
    "vision_encoder.clip_img_pos_embed",
    "vision_encoder.clip_decoder.",
    "vision_encoder.final_clip_decoder.",
    "text_encoder.bert.embeddings.position_ids",
    "text_encoder.cls.",
    "vision_proj.",
    "text_proj.",
    "itm_head.",
    "temp",
)
"""Tensors only needed for training or for matching text with video; a final dot stands for all names below.

They are the positions and decoders of the teacher, a buffer of integers, the word prediction head, the contrastive
projections, the matching head and the contrastive temperature.
"""

FINGERPRINTED = "vision_encoder.clip_projector.cross_attn.proj.weight"
"""Tensor whose hash identifies a checkpoint: it is trained, and small enough to hash at every start."""


def load_towers(
    path: str | Path,
    towers: nn.Module,
    text: TextConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> str:
    """Load the tensors of a file into towers built on the meta device.

    Args:
        path: A ``.pt`` or ``.safetensors`` checkpoint.
        towers: Module with ``vision_encoder`` and ``text_encoder``; afterwards its parameters are on ``device``.
        text: Sizes of the text tower, which say which text layers are fusion layers and not used.
        device: Device of the loaded tensors.
        dtype: Precision of the loaded tensors.

    Returns:
        16 hexadecimal digits that identify the weights, whatever the file's format and ``dtype``.

    Raises:
        UserError: The file is not a checkpoint, or its names or shapes are not exactly those of the towers.
    """
    tensors = read_tensors(path)
    used, unused = split_unused(tensors, text)
    wanted = {name: tuple(tensor.shape) for name, tensor in towers.state_dict().items()}
    problems = _disagreements(wanted, {name: tuple(tensor.shape) for name, tensor in used.items()})
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}; give this checkpoint's own configuration")
    if unused:
        families = (f"{family} ({count})" for family, count in unused.items())
        logger.info("%s: unused tensors: %s", path, ", ".join(families))
    towers.load_state_dict({name: used[name].to(device, dtype) for name in wanted}, assign=True)
    weights = used[FINGERPRINTED].float().contiguous().numpy()
    return hashlib.sha256(weights.tobytes()).hexdigest()[:16]


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict in a ``.pt`` or ``.safetensors`` file, memory-mapped if the format allows it.

    Raises:
        UserError: The file is missing or damaged, holds something other than plain tensors, or holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of an InternVideo2 stage-2 checkpoint")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    entries = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in entries if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(
            f"{path}: holds no tensors, neither at the top nor under {' or '.join(WRAPPERS)}; give a stage-2 checkpoint"
        )
    return tensors


def split_unused(tensors: Mapping[str, Tensor], text: TextConfig) -> tuple[dict[str, Tensor], Counter[str]]:
    """Split a state dict into the tensors of the towers and the number of unused ones per family of names."""
    fusion_layers = range(text.fusion_layer, text.num_hidden_layers)
    families = (*UNUSED, *(f"text_encoder.bert.encoder.layer.{number}." for number in fusion_layers))
    used, unused = {}, Counter[str]()
    for name, tensor in tensors.items():
        family = next((f for f in families if name == f or (f.endswith(".") and name.startswith(f))), None)
        if family is None:
            used[name] = tensor
        else:
            unused[family] += 1
    return used, unused


def _disagreements(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    problems = []
    if missing := [name for name in wanted if name not in found]:
        problems.append(f"lacks {_enumerate(missing)}")
    if unexpected := [name for name in found if name not in wanted]:
        problems.append(f"has unexpected {_enumerate(unexpected)}")
    if shapes := [
        f"{name} of shape {found[name]}, not {shape} as configured"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]:
        problems.append(f"has {_enumerate(shapes)}")
    return problems


def _enumerate(items: Iterable[str], limit: int = 6) -> str:
    shown = list(items)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{path}: reading it needs safetensors, which is not installed: pip install 'sdst[extract]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}); download it again") from error


def _read_pickled(path: Path) -> Any:
    mmap = zipfile.is_zipfile(path)  # files written before PyTorch 1.6 are not archives and cannot be mapped
    try:
        if mmap:
            require_backed(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # PyTorch raises many kinds for a damaged file
        raise UserError(
            f"{path}: damaged, or not a PyTorch checkpoint of plain tensors (nothing else is safe to read); "
            "download it again or save its state dict as .safetensors"
        ) from error
