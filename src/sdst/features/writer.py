"""Write a feature file: first a journal that survives a kill, at the end the HDF5 file from it in one go.

A journal is needed because HDF5 promises nothing about a file whose writer was killed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sdst.console.progress import track
from sdst.data.float16 import to_float16
from sdst.data.info import FORMAT, QUERY_HASHES, VERSION, partial_path
from sdst.errors import UserError
from sdst.features.hdf5_output import new_hdf5
from sdst.features.journal import Journal
from sdst.files.atomic import atomic_path, cannot_write
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike

    from sdst.types import Qid, Record

Scalar = str | int | float | bool
"""Type of an additional root attribute."""


class FeatureWriter:
    """Context manager that writes a feature file and can be killed at any moment and continued.

    Items are collected in the journal ``<path>.partial``. Leaving the context keeps the journal; ``finish`` turns it
    into the HDF5 file.

    Args:
        path: The feature file to write. Its folder is created.
        backbone: Name of the network; None if only ``finish`` knows it, as with the next three.
        video_layers: Layer numbers of the video tower, increasing.
        text_layers: Layer numbers of the text tower, increasing.
        clip_seconds: Length of a clip.
        simulated: Whether the features are simulated.
        extra: Additional root attributes.
        settings: Other options that a journal must share to be continued; they are not stored.

    Raises:
        UserError: The file exists; another process writes it; its journal was started with other attributes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        backbone: str | None,
        video_layers: Sequence[int] | None,
        text_layers: Sequence[int] | None,
        clip_seconds: float | None,
        simulated: bool = False,
        extra: dict[str, Scalar] | None = None,
        settings: dict[str, Scalar | None] | None = None,
    ) -> None:
        self._path = Path(path)
        if self._path.exists():
            raise UserError(
                f"{path}: already exists and is never overwritten; delete it or choose another name"
            )
        self._attrs: dict[str, Any] = {
            **(extra or {}),
            "format": FORMAT,
            "version": VERSION,
            "backbone": backbone,
            "video_layers": self._layers("video_layers", video_layers),
            "text_layers": self._layers("text_layers", text_layers),
            "clip_seconds": None if clip_seconds is None else float(clip_seconds),
            "created_by": f"sdst {__version__}",
            "simulated": simulated,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            header = self._attrs | ({"settings": settings} if settings else {})
            self._journal = Journal(partial_path(self._path), header)
        except OSError as error:
            raise cannot_write(path, error) from None
        # (number of layers, Dv or Dt) of each group
        self._sizes = {_group(key): self._journal.shape(key)[1:] for key in self._journal.keys}

    def has_video(self, vid: str, pooling: str) -> bool:
        """Whether this video is already written with this pooling."""
        return f"video/{pooling}/{vid}" in self._journal.keys

    def num_clips(self, vid: str, pooling: str) -> int:
        """Number of clips of a video that is written."""
        return self._journal.shape(f"video/{pooling}/{vid}")[0]

    def has_text(self, qid: Qid, query_hash: str = "") -> bool:
        """Whether this query is already written.

        Raises:
            UserError: Another query is written under this id.
        """
        key = f"text/{qid}"
        if query_hash and self._journal.note(key) not in ("", query_hash):
            raise UserError(
                f"{partial_path(self._path)}: qid {qid} was begun with another query; delete the file to start over"
            )
        return key in self._journal.keys

    def write_video(self, pooling: str, vid: str, array: ArrayLike) -> None:
        """Add a video's features (T, n, Dv), stored as float16.

        Raises:
            UserError: The array has another rank, layer count or width, it holds NaN or Inf in float16, or the video
                is already written.
        """
        self._write(f"video/{pooling}", vid, array, self._attrs["video_layers"])

    def write_text(self, qid: Qid, array: ArrayLike, query_hash: str = "") -> None:
        """Add a query's features (L, n, Dt), CLS token first, stored as float16.

        Args:
            qid: Id of the query.
            array: Its features.
            query_hash: Hash of its text (:func:`sdst.data.info.query_hash`), by which readers notice another query
                under the same id.

        Raises:
            UserError: See ``write_video``.
        """
        self._write("text", str(qid), array, self._attrs["text_layers"], query_hash)

    def num_tokens(self, qid: Qid) -> int:
        """L of a query that is written."""
        return self._journal.shape(f"text/{qid}")[0]

    def finish(self, **found: Any) -> None:
        """Make the HDF5 file from the journal, put it in place under its name, and delete the journal.

        Args:
            **found: The attributes that were None at the beginning.

        Raises:
            UserError: No video or no query was written.
        """
        if len({key.partition("/")[0] for key in self._journal.keys}) < 2:
            raise UserError(f"{self._path}: no video or no query was written; the annotations must have both")
        for kind in {"video_layers", "text_layers"} & found.keys():
            found[kind] = self._layers(kind, found[kind])
        self._attrs |= found
        with atomic_path(self._path, alone=True) as temporary, new_hdf5(temporary) as (file, output):
            file.attrs.update(self._attrs)
            for key in track(sorted(self._journal.keys), f"writing {self._path.name}"):
                file[key] = self._journal.read(key)
                output.check()
            hashes = {
                key.removeprefix("text/"): note
                for key in self._journal.keys
                if key.startswith("text/") and (note := self._journal.note(key))
            }
            if hashes:
                file[QUERY_HASHES] = np.frombuffer(json.dumps(hashes, sort_keys=True).encode(), np.uint8)
            file.attrs["complete"] = True
        self._journal.delete()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._journal.close()

    def _layers(self, kind: str, layers: Sequence[int] | None) -> list[int] | None:
        if layers is None:
            return None
        if not layers or list(layers) != sorted(set(layers)):
            raise UserError(
                f"{self._path}: {kind} must be increasing, got {list(layers)}; list them from shallow to deep"
            )
        return list(map(int, layers))

    def _write(
        self, group: str, name: str, array: ArrayLike, layers: Sequence[int] | None, note: str = ""
    ) -> None:
        key = f"{group}/{name}"
        if not can_name_features(name):
            raise UserError(f"{self._path}: {name!r} cannot name features; use a name without '/'")
        if key in self._journal.keys:
            raise UserError(f"{self._path}: /{key} is already written; write every item once")
        data = to_float16(array, f"{self._path}: /{key}")
        num_layers = len(layers) if layers else self._sizes[group][0] if group in self._sizes else None
        if data.ndim != 3 or 0 in data.shape or num_layers not in {None, data.shape[1]}:
            raise UserError(
                f"{self._path}: /{key} has shape {data.shape}, expected (n, {num_layers or 'layers'}, width); "
                "check its source"
            )
        width = self._sizes.setdefault(group, data.shape[1:])[1]
        if data.shape[2] != width:
            raise UserError(
                f"{self._path}: /{key} is {data.shape[2]} wide, expected {width}; check its source"
            )
        self._journal.append(key, data, note)


def require_names(records: Iterable[Record], path: Path) -> None:
    """Check all names of an annotation file, before work starts whose result could not be stored.

    Raises:
        UserError: A vid or qid cannot name features.
    """
    bad = [
        (field, name)
        for record in records
        for field, name in (("vid", record.vid), ("qid", str(record.qid)))
        if not can_name_features(name)
    ]
    if bad:
        field, name = bad[0]
        more = f" (and {len(bad) - 1} other names)" if len(bad) > 1 else ""
        raise UserError(f"{path}: {field} {name!r} cannot name features{more}; use names without '/'")


def can_name_features(name: str) -> bool:
    """Whether a video or query name is a single path component, as feature files and folders need it."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def _group(key: str) -> str:
    return key.rpartition("/")[0]
