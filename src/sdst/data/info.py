"""The description of a feature file: its attributes and groups, checked without reading features."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from sdst.errors import UserError
from sdst.untrusted import hdf5

FORMAT = "sdst-features"
VERSION = 1
QUERY_HASHES = "query_hashes"
"""Array of bytes: JSON of qid -> :func:`query_hash` of the query that was encoded. Older files lack it."""


@dataclass(frozen=True)
class StoreInfo:
    """The description of a feature file.

    Attributes:
        path: The file.
        backbone: Name of the network that made the features.
        video_layers: Stored layer numbers of the video tower, shallow to deep.
        text_layers: Stored layer numbers of the text tower, shallow to deep.
        clip_seconds: Length of a clip, in seconds.
        created_by: The program that wrote the file.
        complete: Always True; unfinished files are refused.
        simulated: Whether the features were made up from annotations, so that results from them do not count.
        poolings: Stored poolings of a clip's tokens.
        video_dims: Dv of each pooling.
        text_dim: Dt.
        num_videos: Number of videos stored in any pooling.
        num_queries: Number of queries stored.
        extra: All other root attributes.
    """

    path: Path
    backbone: str
    video_layers: tuple[int, ...]
    text_layers: tuple[int, ...]
    clip_seconds: float
    created_by: str
    complete: bool
    simulated: bool
    poolings: tuple[str, ...]
    video_dims: dict[str, int]
    text_dim: int
    num_videos: int
    num_queries: int
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def made_by(self) -> dict[str, Any]:
        """How the features were made, as arguments of the writer."""
        return {
            "backbone": self.backbone,
            "video_layers": self.video_layers,
            "text_layers": self.text_layers,
            "clip_seconds": self.clip_seconds,
            "simulated": self.simulated,
            "extra": self.extra,
        }


def query_hash(query: str) -> str:
    """16 hexadecimal digits that differ for different texts."""
    return hashlib.sha256(query.encode()).hexdigest()[:16]


def read_info(path: str | Path) -> StoreInfo:
    """Read and check the description of a feature file.

    Raises:
        UserError: The file is missing, damaged, incomplete, empty, or has another format or version.
    """
    with open_store(Path(path)) as file:
        attrs = hdf5.attributes(file)
        if attrs.pop("format", None) != FORMAT:
            raise UserError(f"{path}: attribute 'format' is not '{FORMAT}'; give a feature file of sdst")
        if (version := attrs.pop("version", None)) != VERSION:
            raise UserError(f"{path}: attribute 'version' is {version}, not {VERSION}; write the file again")
        if attrs.get("complete") is not True:
            raise UserError(
                f"{path}: attribute 'complete' is not true; let the command that writes it finish"
            )
        poolings = {name: hdf5.names(file, f"video/{name}") for name in hdf5.names(file, "video")}
        queries = hdf5.names(file, "text")
        video_dims = {name: _width(file, f"video/{name}/{vids[0]}") for name, vids in poolings.items()}
        text_dim = _width(file, f"text/{queries[0]}")
        try:
            return StoreInfo(
                path=Path(path),
                backbone=str(attrs.pop("backbone")),
                video_layers=_layers(attrs, "video_layers"),
                text_layers=_layers(attrs, "text_layers"),
                clip_seconds=_seconds(attrs, "clip_seconds"),
                created_by=str(attrs.pop("created_by")),
                complete=attrs.pop("complete"),
                simulated=bool(attrs.pop("simulated", False)),
                poolings=tuple(poolings),
                video_dims=video_dims,
                text_dim=text_dim,
                num_videos=len(set().union(*poolings.values())),
                num_queries=len(queries),
                extra=attrs,
            )
        except KeyError as error:
            raise UserError(f"{path}: attribute {error} is missing; write the file again") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; write the file again") from None


def open_store(path: Path) -> h5py.File:
    """Open a feature file for reading.

    Raises:
        UserError: The file is missing, or HDF5 cannot read it.
    """
    if not path.is_file():
        if (unfinished := partial_path(path)).exists():
            raise UserError(
                f"{path}: unfinished, only {unfinished.name} is there; repeat the command that writes it"
            )
        raise UserError(f"{path}: no such file; check the path, or write features there first")
    try:
        return h5py.File(path, "r")
    except OSError:
        raise UserError(f"{path}: not an HDF5 file, or truncated; copy or write it again") from None


def partial_path(path: Path) -> Path:
    """The journal of a feature file that is being written."""
    return path.with_name(path.name + ".partial")


def _width(file: h5py.File, key: str) -> int:
    return hdf5.look_up(file, key).shape[2]


def _layers(attrs: dict[str, Any], name: str) -> tuple[int, ...]:
    layers = attrs.pop(name)
    if not isinstance(layers, list) or not layers or any(type(layer) is not int for layer in layers):
        raise ValueError(f"attribute '{name}' must be a list of layer numbers, got {layers!r}")
    return tuple(layers)


def _seconds(attrs: dict[str, Any], name: str) -> float:
    seconds = attrs.pop(name)
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"attribute '{name}' must be a positive number, got {seconds!r}")
    return float(seconds)
