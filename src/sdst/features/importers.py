"""``sdst features import``: feature folders of other projects to a feature file, with a coverage report.

A folder holds one file per video or query:

* ``.npy`` (R2-Tuning): video (T, layers, tokens, D) or (T, layers, D), query (L, layers, D);
* ``.npz`` (Moment-DETR, Lighthouse): ``features`` (T, D) or ``last_hidden_state`` (L, D), one layer;
* ``.pt`` (FlashVTG): a tensor of any of these shapes.

Where a file has all tokens of a clip, pooling ``avg`` stores their mean and ``cls`` the first; otherwise the
vector of a clip is stored under the pooling's name as it is. Annotated rows without features do not stop the
import: they are counted, listed in ``<out>.missing.jsonl``, and the exit status is 3.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from sdst.console.parser import Parser, positive_number
from sdst.console.progress import track
from sdst.data.annotations import read_annotations
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.extract import layer_numbers
from sdst.features.writer import FeatureWriter, can_name_features
from sdst.files.atomic import write_atomically
from sdst.spans import count_clips
from sdst.untrusted.archives import require_backed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from sdst.types import Qid, Record

SUFFIXES = (".npy", ".npz", ".pt")
FLAGS = {"vid": "videos and --video-name", "qid": "queries and --query-name"}
EXIT_SOME_MISSING = 3


@dataclass(frozen=True)
class Coverage:
    """How much of an annotation file a feature file has.

    Attributes:
        split: The annotation file's name.
        num_videos: Videos annotated.
        num_queries: Queries annotated.
        missing_vids: Videos without features.
        missing_qids: Queries without features.
        other_length: Videos whose features are more than a clip longer or shorter than annotated.
    """

    split: str
    num_videos: int
    num_queries: int
    missing_vids: list[str]
    missing_qids: list[str]
    other_length: list[str]


def import_main(argv: Sequence[str]) -> int:
    """Run the command; 3 if annotated rows have no features."""
    args = _parser().parse_args(argv)
    splits = {path.name: read_annotations(path).records for path in args.annotations}
    records = [record for split in splits.values() for record in split]
    videos = _find(args.videos, args.video_name, "vid", (record.vid for record in records))
    queries = _find(args.queries, args.query_name, "qid", (record.qid for record in records))
    first_video = read_video(next(iter(videos.values())), args.pooling)
    first_query = read_query(next(iter(queries.values())))
    with FeatureWriter(
        args.out,
        backbone=args.backbone,
        video_layers=args.video_layers or range(1, first_video.shape[1] + 1),
        text_layers=args.text_layers or range(1, first_query.shape[1] + 1),
        clip_seconds=args.clip_seconds,
    ) as writer:
        _copy(writer, args.pooling, videos, queries)
        writer.finish()
    store = FeatureStore(args.out, pooling=args.pooling)
    return _report(args.out, [measure_coverage(store, name, split) for name, split in splits.items()])


def read_video(path: Path, pooling: str) -> NDArray[np.generic]:
    """A video's features (T, layers, D) from a file of another project.

    Raises:
        UserError: The file is damaged, of another shape, or needs another pooling.
    """
    array = _read_array(path, "features")
    if array.ndim == 2:
        return array[:, None]
    if array.ndim == 3:
        return array
    if array.ndim != 4:
        raise UserError(f"{path}: shape {array.shape}; give (T, D), (T, layers, D) or (T, layers, tokens, D)")
    if pooling == "cls":
        return array[:, :, 0]
    if pooling == "avg":
        return np.asarray(array.mean(axis=2, dtype=np.float32))
    raise UserError(f"{path}: holds all tokens of a clip; choose --pooling avg or cls")


def read_query(path: Path) -> NDArray[np.generic]:
    """A query's features (L, layers, D) from a file of another project.

    Raises:
        UserError: The file is damaged or of another shape.
    """
    array = _read_array(path, "last_hidden_state")
    if array.ndim not in {2, 3}:
        raise UserError(f"{path}: shape {array.shape}; give (L, D) or (L, layers, D)")
    return array[:, None] if array.ndim == 2 else array


def measure_coverage(store: FeatureStore, split: str, records: Sequence[Record]) -> Coverage:
    """Compare a feature file with the records of an annotation file named ``split``."""
    durations = {record.vid: record.duration for record in records}
    missing_vids, missing_qids = store.missing(durations, [record.qid for record in records])
    other_length = [
        vid
        for vid in durations.keys() - set(missing_vids)
        if abs(store.num_clips(vid) - count_clips(durations[vid], store.info.clip_seconds)) > 1
    ]
    return Coverage(split, len(durations), len(records), missing_vids, missing_qids, sorted(other_length))


def _read_array(path: Path, npz_key: str) -> NDArray[np.generic]:
    try:
        if path.suffix != ".npy" and zipfile.is_zipfile(path):
            require_backed(path)
        if path.suffix == ".pt":
            return _read_tensor(path)
        # Mapped, an array that declares more than the file has is refused at once.
        content = np.load(path, mmap_mode="r")
        if path.suffix == ".npz" and npz_key not in content:
            raise UserError(f"{path}: has no array '{npz_key}'; give the right folder")
        return np.asarray(content[npz_key] if path.suffix == ".npz" else content)
    except UserError:
        raise
    except Exception as error:  # whatever NumPy or PyTorch stumble over
        raise UserError(f"{path}: not a whole array file; copy or make it again") from error


def _read_tensor(path: Path) -> NDArray[np.generic]:
    import torch

    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("the tensor repeats the values that it has")
    return np.asarray(tensor.float().numpy())


def _find(folder: Path, name: str, field: str, keys: Iterable[Qid]) -> dict[Qid, Path]:
    """The file of each key that has one.

    Raises:
        UserError: None has one.
    """
    found = {}
    for key in dict.fromkeys(keys):
        stem = name.replace(f"{{{field}}}", str(key))
        paths = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
        # os.path, unlike Path, says no to a name that is too long for a file.
        if can_name_features(str(key)) and (path := next(filter(os.path.isfile, paths), None)):
            found[key] = path
    if not found:
        looked_for = f"{stem}{{{','.join(SUFFIXES)}}}"
        raise UserError(f"{folder}: has no file of any {field}, such as {looked_for}; check --{FLAGS[field]}")
    return found


def _copy(
    writer: FeatureWriter, pooling: str, videos: Mapping[Qid, Path], queries: Mapping[Qid, Path]
) -> None:
    """Read and write one file at a time, except those that an interrupted import has written."""
    for vid, path in track(videos.items(), "videos"):
        if not writer.has_video(str(vid), pooling):
            writer.write_video(pooling, str(vid), read_video(path, pooling))
    for qid, path in track(queries.items(), "queries"):
        if not writer.has_text(qid):
            writer.write_text(qid, read_query(path))


def _report(out: Path, coverages: Sequence[Coverage]) -> int:
    table = Table("annotations", "videos", "queries", "other length", title=str(out))
    missing = []
    for cover in coverages:
        num_vids = cover.num_videos - len(cover.missing_vids)
        num_qids = cover.num_queries - len(cover.missing_qids)
        table.add_row(
            cover.split,
            f"{num_vids}/{cover.num_videos}",
            f"{num_qids}/{cover.num_queries}",
            str(len(cover.other_length)),
        )
        missing += [{"split": cover.split, "vid": vid} for vid in cover.missing_vids]
        missing += [{"split": cover.split, "qid": qid} for qid in cover.missing_qids]
    Console(file=sys.stdout).print(table)
    if not missing:
        return 0
    listing = out.with_suffix(".missing.jsonl")
    write_atomically(listing, "".join(json.dumps(row) + "\n" for row in missing))
    sys.stderr.write(f"{len(missing)} videos and queries have no features; they are listed in {listing}\n")
    return EXIT_SOME_MISSING


def _parser() -> Parser:
    parser = Parser(prog="sdst features import", description="Feature folders to a feature file.")
    add = parser.add_argument
    add("--annotations", type=Path, nargs="+", required=True, metavar="A.jsonl", help="annotation files")
    add("--videos", type=Path, required=True, metavar="DIR", help="folder with a file per video")
    add("--queries", type=Path, required=True, metavar="DIR", help="folder with a file per query")
    add("--video-name", default="{vid}", help="a video file's name without extension (%(default)s)")
    add("--query-name", default="{qid}", help="a query file's name, e.g. qid{qid} (%(default)s)")
    add("--backbone", required=True, help="name of the network that made the features")
    add("--pooling", choices=["adaptive", "avg", "cls"], default="adaptive", help="(%(default)s)")
    add("--video-layers", type=layer_numbers, help="numbers of the layers in a video file (1,2,...)")
    add("--text-layers", type=layer_numbers, help="numbers of the layers in a query file (1,2,...)")
    add("--clip-seconds", type=positive_number, default=2.0, help="length of a clip (%(default)s)")
    add("--out", type=Path, required=True, metavar="F.h5", help="feature file to write")
    return parser
