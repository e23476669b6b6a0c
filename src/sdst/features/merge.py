"""``sdst features merge``: join feature files of different videos, e.g. the shards of one extraction."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.console.parser import Parser
from sdst.console.progress import track
from sdst.data.info import open_store, read_info
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.writer import FeatureWriter
from sdst.untrusted import hdf5

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h5py

    from sdst.data.info import StoreInfo


def merge_main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog="sdst features merge", description="Join feature files of different videos.")
    parser.add_argument(
        "inputs", type=Path, nargs="+", metavar="F.h5", help="feature files made with the same settings"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="F.h5", help="feature file to write")
    args = parser.parse_args(argv)
    merge(args.inputs, args.out)
    info = read_info(args.out)
    sys.stdout.write(f"{args.out}: {info.num_videos} videos, {info.num_queries} queries\n")
    return 0


def merge(inputs: Sequence[Path], out: Path, *, all_shards: bool = True) -> None:
    """Copy all videos and queries of the inputs, one at a time, into one feature file.

    Args:
        inputs: Feature files.
        out: Feature file to write.
        all_shards: Whether to refuse an extraction's shards if some of them are missing.

    Raises:
        UserError: An input cannot be read; the inputs were made with different settings; two inputs hold the same
            video or query; a shard is missing; ``out`` exists.
    """
    if all_shards:
        _require_all_shards(inputs)
    infos = [read_info(path) for path in inputs]
    for info in infos[1:]:
        if different := _differences(infos[0], info):
            raise UserError(
                f"{info.path}: was not made like {inputs[0]} ({different}); merge files made with the same settings"
            )
    owners: dict[str, Path] = {}
    for path in inputs:
        with open_store(path) as file:
            keys = _keys(file)
        for key in keys:
            if key in owners:
                raise UserError(f"{path}: /{key} is also in {owners[key]}; merge files of different videos")
            owners[key] = path
    with FeatureWriter(out, **infos[0].made_by) as writer:
        for path in inputs:
            _copy(path, writer)
        writer.finish()


def _copy(path: Path, writer: FeatureWriter) -> None:
    hashes = FeatureStore(path, pooling=read_info(path).poolings[0]).query_hashes
    with open_store(path) as file:
        for key in track(_keys(file), f"reading {path.name}"):
            group, _, name = key.rpartition("/")
            if group == "text":
                if not writer.has_text(name):  # an interrupted merge may have copied it
                    writer.write_text(name, hdf5.read(file, key), hashes.get(name, ""))
            else:
                pooling = group.removeprefix("video/")
                if not writer.has_video(name, pooling):
                    writer.write_video(pooling, name, hdf5.read(file, key))


def _keys(file: h5py.File) -> list[str]:
    """The keys of all items, "video/POOLING/VID" and "text/QID"."""
    groups = [f"video/{pooling}" for pooling in hdf5.names(file, "video")]
    return [f"{group}/{name}" for group in (*groups, "text") for name in hdf5.names(file, group)]


def _differences(first: StoreInfo, other: StoreInfo) -> str:
    names = ("poolings", "video_dims", "text_dim")
    one = first.made_by | {name: getattr(first, name) for name in names}
    two = other.made_by | {name: getattr(other, name) for name in names}
    return ", ".join(f"{name} {two[name]}, not {one[name]}" for name in one if one[name] != two[name])


def _require_all_shards(inputs: Sequence[Path]) -> None:
    """Refuse inputs that lack a shard; otherwise the gap would show only in training."""
    matches = [re.fullmatch(r"(.*)\.shard-(\d+)-of-(\d+)", path.stem) for path in inputs]
    given = {(match[1], int(match[3])): set[int]() for match in matches if match}
    for match in matches:
        if match:
            given[match[1], int(match[3])].add(int(match[2]))
    for (name, count), indices in given.items():
        if absent := sorted(set(range(count)) - indices):
            raise UserError(
                f"{name}: shards {', '.join(map(str, absent))} of {count} are missing; give all shards"
            )
