"""``sdst export``: the side network of a run as one file that runs without this package.

The file takes the five tensors of :meth:`sdst.types.Batch.inputs`, with any number of samples, clips and tokens, and
gives each query's moments in seconds with their scores (eq. 23), before NMS, and the saliency of every clip. The
recipe of the features is stored in the file.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdst.config.schema import Decoding
from sdst.console.parser import Parser
from sdst.errors import UserError
from sdst.files.atomic import atomic_path
from sdst.models.decoding import raw_moments
from sdst.training import checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.export import ExportedProgram

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}
"""Format -> the suffix of its files."""
INPUTS = ("video", "video_mask", "text", "text_mask", "num_clips")
OUTPUTS = ("moments", "scores", "saliency")
RECIPE = "recipe"
"""Key of the recipe, as JSON, among the metadata of an ONNX file; ``recipe.json`` in a ``.pt2`` file."""


class SideNetwork(nn.Module):
    """A model whose outputs are plain tensors, ready for NMS.

    Args:
        model: The trained model.
        decoding: Options of decoding; ``score`` is used.
        clip_seconds: Length of a clip.
    """

    def __init__(self, model: nn.Module, decoding: Decoding, clip_seconds: float) -> None:
        super().__init__()
        self.model = model
        self.decoding = decoding
        self.clip_seconds = clip_seconds

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor, num_clips: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict a batch.

        Args:
            video: (B, K, T, Dv) float16 clip features per level.
            video_mask: (B, T) true for valid clips.
            text: (B, K, L, Dt) float16 token features per level, CLS first.
            text_mask: (B, L) true for valid tokens.
            num_clips: (B,) float32 duration / clip length.

        Returns:
            (B, M, 2) start and end in seconds, in any order and not clamped to the video; their (B, M) scores; the
            (B, T) saliency of the clips, meaningless where padded. All are float32.
        """
        output = self.model(video, video_mask, text, text_mask, num_clips)
        durations = num_clips.double() * self.clip_seconds
        moments, scores = raw_moments(output, durations, self.decoding)
        return moments.float(), scores.float(), output.saliency.float()


def main(argv: Sequence[str]) -> int:
    """Write the file and print its path.

    Raises:
        UserError: The model cannot be loaded or exported, a package is missing, or the file exists.
    """
    args = _parser().parse_args(argv)
    if args.out.suffix != SUFFIXES[args.format]:
        raise UserError(
            f"{args.out}: the name of this format must end with {SUFFIXES[args.format]}; correct it"
        )
    if args.out.exists():
        raise UserError(
            f"{args.out}: already exists and is never overwritten; delete it or choose another name"
        )
    model, config, recipe = checkpoint.load(args.run)
    # Neither NMS nor fusion is part of the file.
    decoding = replace(Decoding(**config["decode"]), nms="none")
    network = SideNetwork(model, decoding, recipe["clip_seconds"]).eval()
    write = write_onnx if args.format == "onnx" else write_torch
    write(network, recipe, args.out)
    sys.stdout.write(f"{args.out}\n")
    return 0


def write_torch(network: SideNetwork, recipe: dict[str, Any], out: Path) -> None:
    """Write a ``.pt2`` file, which ``torch.export.load`` reads."""
    program = _export(network, recipe)
    _forget_origin(program)
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{RECIPE}.json": json.dumps(recipe)})


def write_onnx(network: SideNetwork, recipe: dict[str, Any], out: Path) -> None:
    """Write an ONNX file.

    Raises:
        UserError: A package of the extra ``export`` is missing.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise UserError(f"sdst export: {missing[0]} is not installed; pip install 'sdst[export]'")
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # they report every operator that they leave alone
        logging.getLogger(name).setLevel(logging.ERROR)
    program = _export(network, recipe).run_decompositions(WITHOUT_ONNX_OPERATOR)
    _forget_origin(program)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about PyTorch's own code
            made = torch.onnx.export(
                program, dynamo=True, input_names=list(INPUTS), output_names=list(OUTPUTS), verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        raise _cannot_export(error) from error
    assert made is not None  # with dynamo, the program is returned
    for part in (made.model.graph, *made.model.functions.values()):
        for node in part.all_nodes():
            node.metadata_props.clear()  # places in PyTorch's source code
    made.model.metadata_props[RECIPE] = json.dumps(recipe)
    with atomic_path(out) as temporary:
        made.save(temporary)


def _sum_rows(
    table: Tensor,
    rows: Tensor,
    starts: Tensor,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    weights: Tensor,
    include_last_offset: bool,
    padding_idx: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``embedding_bag`` as :mod:`sdst.models.interpolation` calls it: bags of equal size, with weights."""
    read = (table[rows] * weights.unsqueeze(-1)).view(starts.shape[0], -1, table.shape[1]).sum(dim=1)
    return read, starts, starts, starts


def _argsort(values: Tensor, *, stable: bool, dim: int, descending: bool) -> Tensor:
    """A stable ``argsort``: in ONNX, the lower index of equal values comes first."""
    return torch.topk(values, values.shape[dim], dim, descending).indices


# Without this, every sum of rows would be a loop, ten times as slow, and a stable sort could not be written.
WITHOUT_ONNX_OPERATOR = {
    torch.ops.aten.embedding_bag.padding_idx: _sum_rows,
    torch.ops.aten.argsort.stable: _argsort,
}


def _forget_origin(program: ExportedProgram) -> None:
    """Remove the source locations of each operation: they make the file larger and name folders."""
    for node in program.graph.nodes:
        for key in [key for key in node.meta if key != "val"]:
            del node.meta[key]


def _export(network: SideNetwork, recipe: dict[str, Any]) -> ExportedProgram:
    """Trace the network with sizes that no other dimension has.

    Raises:
        UserError: PyTorch cannot trace this model.
    """
    samples, clips, tokens, levels = 3, 7, 5, len(recipe["video_layers"])
    inputs = (
        torch.zeros(samples, levels, clips, recipe["video_dim"], dtype=torch.float16),
        torch.ones(samples, clips, dtype=torch.bool),
        torch.zeros(samples, levels, tokens, recipe["text_dim"], dtype=torch.float16),
        torch.ones(samples, tokens, dtype=torch.bool),
        torch.full((samples,), float(clips)),
    )
    batch, length, words = (torch.export.Dim(name) for name in ("batch", "clips", "tokens"))
    shapes = (
        {0: batch, 2: length},
        {0: batch, 1: length},
        {0: batch, 2: words},
        {0: batch, 1: words},
        {0: batch},
    )
    logging.getLogger("torch._guards").setLevel(logging.CRITICAL)  # the error below says the same
    try:
        # Strict, because otherwise len() of a tensor would fix the size of the batch.
        return torch.export.export(network, inputs, dynamic_shapes=shapes, strict=True)
    except Exception as error:  # the tracer raises many types
        raise _cannot_export(error) from error


def _cannot_export(error: BaseException) -> UserError:
    while error.__cause__ is not None:  # the first error says which operator it is
        error = error.__cause__
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"sdst export: PyTorch cannot export this model ({reason}); use sdst.load instead")


def _parser() -> Parser:
    parser = Parser(
        prog="sdst export",
        description="Write a run's side network as one file that runs without this package. It takes features of "
        "clips and tokens, and gives moments in seconds with scores, and saliency.",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run folder, a checkpoint, or a model of sdst push")
    add("--format", choices=sorted(SUFFIXES), required=True, help="torch: torch.export; onnx: ONNX Runtime")
    add("--out", type=Path, required=True, metavar="FILE", help="file to write, .pt2 or .onnx")
    return parser
