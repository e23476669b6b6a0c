"""Names of official weights: how a checkpoint that the authors released becomes one of ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

PROJECTIONS = {
    rf"input_{official}_proj\.{block}\.{part}": f"inputs.{ours}.{module}"
    for official, ours in (("vid", "video"), ("txt", "text"))
    for block, part, module in (
        (0, "LayerNorm", 0),
        (0, r"net\.1", 2),
        (1, "LayerNorm", 4),
        (1, r"net\.1", 6),
    )
}
"""Projections of both modalities, which all these methods have."""
DAB = {
    **{
        rf"transformer\.decoder\.layers\.(\d+)\.{official}": rf"decoder.layers.\1.{ours}"
        for official, ours in {
            "sa_qcontent_proj": "self_query",
            "sa_kcontent_proj": "self_key",
            "sa_qpos_proj": "self_query_place",
            "sa_kpos_proj": "self_key_place",
            "sa_v_proj": "self_value",
            r"self_attn\.out_proj": "self_out",
            "ca_qcontent_proj": "cross_query",
            "ca_kcontent_proj": "cross_key",
            "ca_qpos_proj": "cross_query_place",
            "ca_kpos_proj": "cross_key_place",
            "ca_qpos_sine_proj": "cross_query_sine",
            "ca_v_proj": "cross_value",
            r"cross_attn\.out_proj": "cross_out",
            "(norm1|norm2|norm3)": r"\2",
            "(linear1|linear2|activation)": r"ffn.\2",
        }.items()
    },
    r"transformer\.decoder\.norm": "decoder.norm",
    r"transformer\.decoder\.ref_point_head": "decoder.embed_place",
    r"transformer\.decoder\.query_scale": "decoder.scale_sine",
    r"transformer\.decoder\.ref_anchor_head": "decoder.width_ratio",
    r"transformer\.decoder\.bbox_embed": "decoder.refine",
    r"query_embed\.weight": "decoder.queries",
    "span_embed": "decoder.read_span",
    "class_embed": "decoder.read_class",
}
"""The DAB decoder with its heads."""


def encoder_names(official: str, ours: str) -> dict[str, str]:
    """Patterns for ``renamed`` that rename the layers of an encoder, from its official name (a pattern) to ours."""
    return {
        rf"{official}\.layers\.(\d+)\.(linear1|linear2|activation)": rf"{ours}.\1.ffn.\2",
        rf"{official}\.layers\.(\d+)": rf"{ours}.\1",
    }


ADAPTIVE = {
    "token_type_embeddings": "types",
    "dummy_rep_token": "dummies.tokens",
    "dummy_rep_pos": "dummies.positions",
    **encoder_names("txtproj_encoder", "dummies.layers"),
    r"transformer\.t2v_encoder\.layers\.(\d+)\.self_attn": r"encoder.text_layers.\1",
    **encoder_names(r"transformer\.t2v_encoder", "encoder.text_layers"),
    **encoder_names(r"transformer\.encoder", "encoder.layers"),
    "saliency_proj1": "saliency.clip",
    "saliency_proj2": "saliency.whole",
}
"""Tokens, encoder and saliency of CG-DETR and FlashVTG."""


def renamed(
    weights: Mapping[str, Tensor], names: Mapping[str, str], unused: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Rename a state dict.

    Args:
        weights: Official names and values.
        names: Pattern of an official module or parameter -> its name here. The first that fits the whole name, or the
            name up to a dot, counts; the rest of the name stays.
        unused: Beginnings of the names of weights without effect in the official code.

    Raises:
        UserError: A name fits no pattern.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith(tuple(unused)):
            continue
        # The official MLPs number only their linear layers; ours also number the activations between them.
        ours = re.sub(r"\.layers\.(\d+)\.(weight|bias)$", lambda m: f".{2 * int(m[1])}.{m[2]}", name)
        matches = (
            (re.match(rf"{pattern}(?=\.|$)", ours), replacement) for pattern, replacement in names.items()
        )
        match, replacement = next(((m, new) for m, new in matches if m), (None, ""))
        if match is None:
            raise UserError(f"unknown weight {name}; give the state dict of the official model")
        found[match.expand(replacement) + ours[match.end() :]] = value
    return found
