"""Backbone features on disk: one HDF5 file per dataset and backbone, read by layer number.

::

    /                       attrs: format, version, backbone, video_layers, text_layers, clip_seconds,
                            created_by, complete, simulated, and any others that the writer was given
    /video/<pooling>/<vid>  float16 (T, n, Dv)     n layers, shallow to deep
    /text/<qid>             float16 (L, n, Dt)     CLS token first
    /query_hashes           uint8 (bytes)          JSON: qid -> hash of the query's text; older files lack it
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from sdst.data.float16 import all_finite
from sdst.data.info import QUERY_HASHES, open_store, query_hash, read_info
from sdst.errors import UserError
from sdst.untrusted import hdf5

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdst.types import Qid, Record


class Held(Protocol):
    """Features of a store that are held in memory (``sdst.data.shared``)."""

    def video(self, vid: str) -> NDArray[np.float16]:
        """As ``FeatureStore.video``."""

    def text(self, qid: Qid) -> NDArray[np.float16]:
        """As ``FeatureStore.text``."""


class FeatureStore:
    """Reads one pooling and chosen layers of a feature file.

    Cheap to pickle and safe to fork: each process opens its own handle at the first read. Features are copied from the
    operating system's page cache, or from ``shared`` memory, which all processes of a machine share; no process keeps
    its own copy.

    Args:
        path: The feature file.
        pooling: How a clip's tokens were pooled: adaptive, avg or cls.
        video_layers: Layer numbers as in the file's attributes, in the order wanted; a number may repeat
            (Tab. K: the last layer K times). None takes all stored layers.
        text_layers: The same for the text tower.

    Attributes:
        info: The description of the file.
        video_dim: Dv of the pooling.
        text_dim: Dt.
        pooling: The pooling.
        video_layers: The K wanted layers of the video tower.
        text_layers: The same of the text tower.
        shared: The same features in shared memory, which are read instead of the file; None if they are not held there.

    Raises:
        UserError: The file cannot be used (see ``read_info``), or lacks the pooling or a layer.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        pooling: str = "adaptive",
        video_layers: Sequence[int] | None = None,
        text_layers: Sequence[int] | None = None,
    ) -> None:
        self.info = read_info(path)
        if pooling not in self.info.poolings:
            raise UserError(f"{path}: no group /video/{pooling}; choose from {', '.join(self.info.poolings)}")
        self.video_dim = self.info.video_dims[pooling]
        self.text_dim = self.info.text_dim
        self.pooling = pooling
        self.video_layers = self.info.video_layers if video_layers is None else tuple(video_layers)
        self.text_layers = self.info.text_layers if text_layers is None else tuple(text_layers)
        self.shared: Held | None = None
        self._video_choice = self._choose("video_layers", self.video_layers)
        self._text_choice = self._choose("text_layers", self.text_layers)
        self._handle: h5py.File | None = None
        self._handle_pid = -1
        self._items: dict[str, hdf5.Item] = {}  # looked up through the open handle

    def __repr__(self) -> str:
        info = self.info
        layers = f"video_layers={self.video_layers}, text_layers={self.text_layers}"
        return (
            f"FeatureStore({str(info.path)!r}, pooling={self.pooling!r}, {layers}, backbone {info.backbone}, "
            f"{info.num_videos} videos, {info.num_queries} queries)"
        )

    def video(self, vid: str) -> NDArray[np.float16]:
        """Features (K, T, Dv) of a video's clips in the wanted layers; not contiguous: the file has clips first.

        Raises:
            UserError: The video is missing or damaged, or holds NaN or Inf.
        """
        if self.shared is not None:
            return self.shared.video(vid)
        return self._read(self._video_key(vid), self._video_choice)

    def text(self, qid: Qid) -> NDArray[np.float16]:
        """Features (K, L, Dt) of a query's tokens in the wanted layers, CLS first.

        Raises:
            UserError: The query is missing or damaged, or holds NaN or Inf.
        """
        if self.shared is not None:
            return self.shared.text(qid)
        return self._read(f"text/{qid}", self._text_choice)

    def num_clips(self, vid: str) -> int:
        """T of a video, without reading its features.

        Raises:
            UserError: The video is missing or damaged.
        """
        return self._find(self._video_key(vid)).shape[0]

    def num_tokens(self, qid: Qid) -> int:
        """L of a query, without reading its features.

        Raises:
            UserError: The query is missing or damaged.
        """
        return self._find(f"text/{qid}").shape[0]

    def vids(self) -> list[str]:
        """Names of all videos stored in the pooling."""
        return hdf5.names(self._file, f"video/{self.pooling}")

    def qids(self) -> list[str]:
        """Ids of all stored queries."""
        return hdf5.names(self._file, "text")

    def missing(self, vids: Iterable[str], qids: Iterable[Qid]) -> tuple[list[str], list[str]]:
        """The videos and queries among these that are not stored, each once, in the order given."""
        stored_vids, stored_qids = set(self.vids()), set(self.qids())
        return (
            [vid for vid in dict.fromkeys(vids) if vid not in stored_vids],
            [qid for qid in dict.fromkeys(map(str, qids)) if qid not in stored_qids],
        )

    @cached_property
    def query_hashes(self) -> dict[str, str]:
        """Qid -> hash of the query that was encoded; empty for older files.

        Raises:
            UserError: The hashes are damaged.
        """
        content = hdf5.read_bytes(self._file, QUERY_HASHES)
        try:
            hashes = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            hashes = None
        if not isinstance(hashes, dict):
            raise UserError(f"{self.info.path}: /{QUERY_HASHES} is damaged; write the file again")
        return hashes

    def require_queries(self, records: Iterable[Record]) -> None:
        """Check that the stored features are of these texts, not of others with the same ids; skips empty queries.

        Raises:
            UserError: Some are of other queries; the message has their number and the first one.
        """
        hashes = self.query_hashes
        other = [
            record
            for record in records
            if record.query and hashes.get(str(record.qid), known := query_hash(record.query)) != known
        ]
        if other:
            raise UserError(
                f"{self.info.path}: {len(other)} queries have the features of another text (first qid "
                f"{other[0].qid!r}, {other[0].query!r}); make the features from these annotations"
            )

    def require(self, vids: Iterable[str], qids: Iterable[Qid]) -> None:
        """Check before any work starts that all these videos and queries are stored.

        Raises:
            UserError: Some are missing; the message has their number and the first few names.
        """
        missing_vids, missing_qids = self.missing(vids, qids)
        for group, absent in ((f"video/{self.pooling}", missing_vids), ("text", missing_qids)):
            if absent:
                names = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
                raise UserError(
                    f"{self.info.path}: /{group} lacks {len(absent)} needed items ({names}); "
                    "write features for all annotated rows"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_items": {}}

    @property
    def _file(self) -> h5py.File:
        # HDF5 handles must not be used across a fork: they share one file position and one cache.
        if self._handle is None or self._handle_pid != os.getpid():
            self._handle = open_store(self.info.path)
            self._handle_pid = os.getpid()
            self._items = {}  # the file may have been replaced since
        return self._handle

    def _video_key(self, vid: str) -> str:
        return f"video/{self.pooling}/{vid}"

    def _choose(self, kind: str, wanted: tuple[int, ...]) -> slice | NDArray[np.int64]:
        """Positions of the wanted layers among the stored ones."""
        stored: tuple[int, ...] = getattr(self.info, kind)
        if not wanted or not set(wanted) <= set(stored):
            raise UserError(
                f"{self.info.path}: {kind} {wanted} are not all stored; choose from {stored}, read fewer levels "
                f"(levels=k1), repeat the last layer (levels.source=last), or store the others"
            )
        places = np.array([stored.index(layer) for layer in wanted])
        # A slice gives a view without a copy; collating copies anyway.
        in_a_row = (np.diff(places) == 1).all()
        return slice(int(places[0]), int(places[-1]) + 1) if in_a_row else places

    def _find(self, key: str) -> hdf5.Item:
        """Look up and check an item at its first use."""
        file = self._file
        if key not in self._items:
            item = hdf5.look_up(file, key)
            if key.startswith("text/"):
                promised = len(self.info.text_layers), self.text_dim
            else:
                promised = len(self.info.video_layers), self.video_dim
            if item.shape[1:] != promised:
                raise UserError(
                    f"{self.info.path}: /{key} must have layers x width {promised}, got {item.shape[1:]}; "
                    "write the file again"
                )
            self._items[key] = item
        return self._items[key]

    def _read(self, key: str, layers: slice | NDArray[np.int64]) -> NDArray[np.float16]:
        # All layers even if only one of sixteen is wanted: one long read is faster than a read per clip.
        stored = hdf5.read(self._file, key, self._find(key))
        wanted = stored[:, layers]
        if not all_finite(wanted):
            raise UserError(f"{self.info.path}: /{key} holds NaN or Inf; extract it again")
        return wanted.transpose(1, 0, 2)
