"""Decide from several files which axis counts what, so that an array is never read with its axes exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sdst.features.importers.arrays import Contents

    Shape = tuple[int, ...]

ACCEPTED = {
    "video": "(T, D), (T, layers, D) or (T, layers, tokens, D)",
    "text": "(L, D), (L, layers, D) or (layers, L, D)",
}
AXES = ("layers,tokens", "tokens,layers")
"""The two orders of the axes of a query's array with several layers."""


@dataclass(frozen=True)
class Reading:
    """How the arrays of all files of a kind are read.

    Attributes:
        kind: ``video`` or ``text``.
        rank: Number of axes without leading axes of 1.
        layers_first: Whether the layers are the first axis and not the second.
        num_layers: Number of layers.
        width: Width of a layer's vector.
    """

    kind: str
    rank: int
    layers_first: bool
    num_layers: int
    width: int

    def apply(self, contents: Contents) -> NDArray[np.generic]:
        """The array with clips or tokens first: (n, layers, D) or (n, layers, tokens, D), without masked tokens.

        Raises:
            UserError: The array has another shape than those that were decided on.
        """
        array = contents.array
        while array.ndim > self.rank and array.shape[0] == 1:
            array = array[0]
        if array.ndim == 2:
            array = array[:, None]
        elif self.layers_first and array.ndim == self.rank:
            array = array.swapaxes(0, 1)
        if array.ndim != max(self.rank, 3) or array.shape[1] != self.num_layers:
            raise UserError(
                f"{contents.path}: has shape {contents.array.shape}, but the files before it have "
                f"{_layers(self.num_layers)} in {self.rank} axes; all files must have the same layers"
            )
        if array.shape[-1] != self.width:
            raise UserError(
                f"{contents.path}: is {array.shape[-1]} wide (shape {contents.array.shape}), but the files before it "
                f"are {self.width} wide; all files must be of one network"
            )
        if contents.mask is None:
            return array
        if len(contents.mask) != len(array) or not contents.mask.any():
            raise UserError(
                f"{contents.path}: its attention_mask must have an entry per token ({len(array)}), not all 0, "
                f"got {int(contents.mask.sum())} of {len(contents.mask)} valid; check the file"
            )
        return array[contents.mask]


def without_batch(shape: Shape) -> Shape:
    """The shape without leading axes of 1, down to two axes."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def decide(
    kind: str,
    files: Sequence[Contents],
    *,
    named: int | None = None,
    axes: str | None = None,
    usual_layers: int | None = None,
    usual_axes: str | None = None,
) -> Reading:
    """How to read the files of a kind, after a look at several of them.

    Args:
        kind: ``video`` or ``text``.
        files: Some of the files.
        named: Number of layers that the user named.
        axes: Order of the axes of a query that the user chose, one of ``AXES``.
        usual_layers: Number of layers of the recognised layout's files.
        usual_axes: Order of the axes in the recognised layout.

    Raises:
        UserError: The shapes contradict each other or the options, or can be read in two ways.
    """
    shapes = _without_batches([file.array.shape for file in files], named)
    path, shape = files[0].path, files[0].array.shape
    rank = len(shapes[0])
    if other := next((file for file, found in zip(files, shapes, strict=True) if len(found) != rank), None):
        raise UserError(
            f"{other.path}: has shape {other.array.shape}, but {path} has {shape}; all files must have the same layers"
        )
    if rank not in ({2, 3, 4} if kind == "video" else {2, 3}):
        raise UserError(f"{path}: has shape {shape}; the shape must be {ACCEPTED[kind]}")
    first, second = ({found[axis] for found in shapes} for axis in (0, 1))
    exchanged = len(first) == 1 < len(second) and (max(second) < min(first) if rank == 2 else 1 not in second)
    if kind == "video" and rank < 4 and exchanged:
        raise UserError(f"{path}: has shape {shape}, but clips must be the first axis: {ACCEPTED[kind]}")
    layers_first, num_layers = False, 1 if rank == 2 else shapes[0][1]
    if kind == "text" and rank == 3:
        layers_first = _layers_are_first(files, shapes, axes, named, usual_layers, usual_axes)
        num_layers = shapes[0][0 if layers_first else 1]
    if named not in {None, num_layers}:
        raise UserError(
            f"{path}: has {_layers(num_layers)} (shape {shape}), but --{kind}-layers names {named}; "
            f"the shape must be {ACCEPTED[kind]}"
        )
    return Reading(kind, rank, layers_first, num_layers, shapes[0][-1])


def _without_batches(shapes: list[Shape], named: int | None) -> list[Shape]:
    """The shapes without a batch axis: a leading axis of 1 in every file that has more axes than two."""
    many = [shape for shape in shapes if len(shape) > 2]
    if not all(shape[0] == 1 for shape in many):
        return shapes
    if named is not None and named > 1 and all(len(shape) == 3 and shape[1] == named for shape in many):
        return shapes  # one clip or token in as many layers as named
    return [without_batch(shape) for shape in shapes]


def _layers_are_first(
    files: Sequence[Contents],
    shapes: list[Shape],
    axes: str | None,
    named: int | None,
    usual_layers: int | None,
    usual_axes: str | None,
) -> bool:
    """Whether the first axis of queries with several layers counts the layers (see ``decide``)."""
    found = axes or _axes_of_text(files, shapes, named)
    if found is None:
        first, second = shapes[0][:2]
        if usual_axes is None or usual_layers not in {None, first if usual_axes == AXES[0] else second}:
            raise UserError(
                f"{files[0].path}: shape {files[0].array.shape} is {first} layers of {second} tokens (--text-axes "
                f"layers,tokens) or {first} tokens in {second} layers (--text-axes tokens,layers), and all files are "
                "alike; give one of the two options"
            )
        found = usual_axes
    return found == AXES[0]


def _axes_of_text(files: Sequence[Contents], shapes: list[Shape], named: int | None) -> str | None:
    """The order of a query's axes as the files show it, or None if they do not.

    Lengths of queries vary from file to file and layers do not. Where all queries are equally long, a mask or the
    number of layers that the user named may decide.
    """
    first, second = shapes[0][:2]
    varies = [len({shape[axis] for shape in shapes}) > 1 for axis in (0, 1)]
    # No query has one token, because tokenizers add a beginning and an end.
    odd = next(
        (place for place, shape in enumerate(shapes) for axis in (0, 1) if varies[axis] and shape[axis] == 1),
        None,
    )
    if odd is not None or all(varies):
        place = odd or next(place for place, shape in enumerate(shapes) if shape[:2] != (first, second))
        other = 0 if place else 1
        raise UserError(
            f"{files[place].path}: has shape {shapes[place]}, but {files[other].path} has {shapes[other]}; "
            f"all files must have the same layers, as {ACCEPTED['text']}"
        )
    if any(varies):
        return AXES[0] if varies[1] else AXES[1]
    masks = {len(file.mask) for file in files if file.mask is not None}
    if (first in masks) != (second in masks):
        return AXES[0] if second in masks else AXES[1]
    if (first == named) != (second == named):
        return AXES[0] if first == named else AXES[1]
    return None


def _layers(count: int) -> str:
    return f"{count} layer" + "s" * (count != 1)
