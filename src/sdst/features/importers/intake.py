"""Take the files of one kind: hold the first ones back until their layout and axes are clear, then write each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.data.float16 import to_float16
from sdst.errors import UserError
from sdst.features.importers import axes, layouts
from sdst.features.importers.arrays import Contents, read_contents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from sdst.features.importers.layouts import Layout
    from sdst.features.importers.members import Member
    from sdst.types import Qid

MOST_HELD = 64
"""Most files that are looked at before their axes are decided."""
MOST_BYTES = 64 * 2**20
"""Most bytes of such files."""
MOST_APART = 2
"""Largest difference in clips between the features of one video that are joined."""


@dataclass(frozen=True)
class Options:
    """How the user says the files of a kind are to be read.

    Attributes:
        layouts: Layouts to choose from.
        key: Name of the array in a file with several; None looks for the usual names.
        num_layers: Number of layers; None takes what is there.
        text_axes: Order of the axes of a query's array; None finds it out.
        pooling: How a clip's tokens become one vector if a video file holds all of them.
    """

    layouts: tuple[Layout, ...]
    key: str | None
    num_layers: int | None
    text_axes: str | None
    pooling: str


@dataclass
class Intake:
    """The files of one kind on their way into the feature file.

    Attributes:
        kind: ``video`` or ``text``.
        options: What the user said about them.
        is_written: Whether a vid or qid is in the feature file already.
        write: Writes the features (n, layers, D) of a vid or qid.
        check: Called with (key, number of clips or tokens, shape) of files before they are written: once with all
            that were held back, then with each.
        candidates: The layouts that fit most of the files looked at.
        reading: How the files are read; None before it is decided.
        folder: Folder or archive of the first file.
        dtype: Type of the first file's numbers.
        keys: Keys that were taken.
        num_cut: Number of videos whose joined features were cut to the shortest.
        simulated: Whether a file says that it is simulated.
    """

    kind: str
    options: Options
    is_written: Callable[[Qid], bool]
    write: Callable[[Qid, NDArray[np.float16]], None]
    check: Callable[[list[tuple[Qid, int, tuple[int, ...]]]], None]
    candidates: tuple[Layout, ...] = ()
    reading: axes.Reading | None = None
    folder: str = ""
    dtype: str = ""
    keys: set[Qid] = field(default_factory=set)
    num_cut: int = 0
    simulated: bool = False
    _held: list[tuple[Qid, Contents]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._usual = layouts.usual_keys(self.options.layouts, self.kind)

    def take(self, key: Qid, members: Sequence[Member]) -> None:
        """Read a video or query and write it, or hold it back until the axes are decided.

        Args:
            key: Its vid or qid.
            members: Its file, or the files of one video that are joined over D.

        Raises:
            UserError: A file cannot be used.
        """
        self.keys.add(key)
        if self.reading is not None and self.is_written(key):
            return
        option = "--video-key" if self.kind == "video" else "--query-key"
        parts = [
            read_contents(member.read(), member.path, usual=self._usual, key=self.options.key, option=option)
            for member in members
        ]
        self.simulated |= any(part.simulated for part in parts)
        contents = parts[0] if len(parts) == 1 else self._join(parts)
        if self.reading is not None:
            self.write_held()
            self._write(key, contents)
            return
        to_float16(contents.array, contents.path)  # refused now, before anything is written
        self._held.append((key, contents))
        if len(self._held) == MOST_HELD or sum(held.array.nbytes for _, held in self._held) > MOST_BYTES:
            self.decide()

    def decide(self) -> None:
        """Decide on layout and axes, if this has not been done.

        Raises:
            UserError: The files contradict each other or the options, or can be read in two ways.
        """
        if self.reading is not None or not self._held:
            return
        files = [held for _, held in self._held]
        self.folder, self.dtype = files[0].path.rpartition("/")[0] or files[0].path, str(files[0].array.dtype)
        self.candidates = self._recognise(files)
        known = next(iter(self.candidates), None)
        self.reading = axes.decide(
            self.kind,
            files,
            named=self.options.num_layers,
            axes=self.options.text_axes,
            usual_layers=known.num_layers if known else None,
            usual_axes=known.text_axes if known else None,
        )
        self._require_pooling(files[0])
        self.check([(key, len(self.reading.apply(held)), held.array.shape) for key, held in self._held])

    def _recognise(self, files: Sequence[Contents]) -> tuple[Layout, ...]:
        """The layouts that fit most of the files; one that the user named must have their shape."""
        if len(self.options.layouts) == 1:
            (layout,) = self.options.layouts
            shape, expected = axes.without_batch(files[0].array.shape), layout.files(self.kind)
            if not layouts.has_shape(layout, self.kind, shape):
                widths = " or ".join(map(str, expected.widths)) or "any"
                ranks = " or ".join(map(str, expected.ranks))
                raise UserError(
                    f"{files[0].path}: has shape {files[0].array.shape}, expected {ranks} axes of width {widths} in "
                    f"layout {layout.name}; check --layout or leave it out"
                )
            return self.options.layouts
        return tuple(
            layout
            for layout in self.options.layouts
            if 2
            * sum(layouts.fits(layout, self.kind, file.path, file.key, file.array.shape) for file in files)
            > len(files)
        )

    def write_held(self) -> None:
        """Write the files that were held back, if it is decided how to read them.

        Raises:
            UserError: A file cannot be used.
        """
        if self.reading is None:
            return
        held_back, self._held = self._held, []
        for key, held in held_back:
            if not self.is_written(key):
                self._write(key, held)

    def _write(self, key: Qid, contents: Contents) -> None:
        assert self.reading is not None  # decided
        array = self.reading.apply(contents)
        self.check([(key, len(array), contents.array.shape)])
        if array.ndim == 4:
            array = array[:, :, 0] if self.options.pooling == "cls" else array.mean(axis=2, dtype=np.float32)
        self.write(key, to_float16(array, contents.path))

    def _require_pooling(self, first: Contents) -> None:
        assert self.reading is not None  # decided
        if self.reading.rank == 4 and self.options.pooling not in {"avg", "cls"}:
            raise UserError(f"{first.path}: holds all tokens of each clip; choose --pooling avg or cls")

    def _join(self, parts: Sequence[Contents]) -> Contents:
        """Features of one video from several folders, side by side, as long as the shortest."""
        arrays: list[Any] = []
        for part in parts:
            shape = axes.without_batch(part.array.shape)
            if len(shape) != 2:
                raise UserError(
                    f"{part.path}: has shape {part.array.shape}; features to be joined must be (T, D)"
                )
            arrays.append(part.array.reshape(shape))
        lengths = [len(array) for array in arrays]
        if max(lengths) - min(lengths) > MOST_APART:
            raise UserError(
                f"{parts[0].path}: has {lengths[0]} clips, but {parts[-1].path} has {lengths[-1]}; features to be "
                f"joined may differ by {MOST_APART} clips"
            )
        self.num_cut += max(lengths) > min(lengths)
        joined = np.concatenate([array[: min(lengths)] for array in arrays], axis=1)
        return Contents(" + ".join(part.path for part in parts), parts[0].key, joined)
