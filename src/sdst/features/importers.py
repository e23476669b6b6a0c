"""``sdst features import``: make a feature file from feature folders of other projects, with a coverage report.

``DESCRIPTION`` lists the files it reads. R2-Tuning writes ``.npy`` files with several layers, Moment-DETR and
Lighthouse ``.npz`` files with one layer, FlashVTG ``.pt`` files.
"""

from __future__ import annotations

import argparse
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
from sdst.data.annotations import clips_of, read_annotations
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

DESCRIPTION = """\
Make a feature file from feature folders of other projects.

A folder holds one file per video or query, in any of these formats:

  .npy   an array
  .npz   an array under the key 'features' (video) or 'last_hidden_state' (query)
  .pt    a tensor (not a dictionary)

with one of these shapes:

  video  (T, D), (T, layers, D) or (T, layers, tokens, D)
  query  (L, D) or (L, layers, D)

T counts the clips of the video and L the tokens of the query; layers go from shallow to deep. All videos must
have the same layers and D, and so must all queries. If a file holds all tokens of a clip, --pooling avg stores
their mean and --pooling cls the first one; otherwise each clip's vector is stored unchanged, under the name of
the pooling.

Annotated videos and queries without a file do not stop the import: they are counted and listed in
OUT.missing.jsonl, and the exit status is 3.
"""
"""Description of the command, with the files it reads."""
SUFFIXES = (".npy", ".npz", ".pt")
FLAGS = {"vid": "videos and --video-name", "qid": "queries and --query-name"}
EXIT_SOME_MISSING = 3


@dataclass(frozen=True)
class Coverage:
    """How much of an annotation file a feature file covers.

    Attributes:
        split: Name of the annotation file.
        num_videos: Number of annotated videos.
        num_queries: Number of annotated queries.
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
    """Run the command and return its exit status, 3 if annotated videos or queries have no features.

    Raises:
        UserError: An option or file cannot be used.
    """
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
    """Read a video's features (T, layers, D) from a file of another project.

    Raises:
        UserError: The file is damaged, has another shape, or needs another pooling.
    """
    array = _read_array(path, "features")
    if array.ndim == 2:
        return array[:, None]
    if array.ndim == 3:
        return array
    if array.ndim != 4:
        shapes = "(T, D), (T, layers, D) or (T, layers, tokens, D)"
        raise UserError(f"{path}: has shape {array.shape}; the shape must be {shapes}")
    if pooling == "cls":
        return array[:, :, 0]
    if pooling == "avg":
        return np.asarray(array.mean(axis=2, dtype=np.float32))
    raise UserError(f"{path}: holds all tokens of each clip; choose --pooling avg or cls")


def read_query(path: Path) -> NDArray[np.generic]:
    """Read a query's features (L, layers, D) from a file of another project.

    Raises:
        UserError: The file is damaged or has another shape.
    """
    array = _read_array(path, "last_hidden_state")
    if array.ndim not in {2, 3}:
        raise UserError(f"{path}: has shape {array.shape}; the shape must be (L, D) or (L, layers, D)")
    return array[:, None] if array.ndim == 2 else array


def measure_coverage(store: FeatureStore, split: str, records: Sequence[Record]) -> Coverage:
    """Compare a feature file with the records of an annotation file named ``split``."""
    annotated = {record.vid: record for record in records}
    missing_vids, missing_qids = store.missing(annotated, [record.qid for record in records])
    other_length = [
        vid
        for vid in annotated.keys() - set(missing_vids)
        if _differs(store.num_clips(vid), annotated[vid], store.info.clip_seconds)
    ]
    return Coverage(split, len(annotated), len(records), missing_vids, missing_qids, sorted(other_length))


def _differs(stored: int, record: Record, clip_seconds: float) -> bool:
    return abs(stored - count_clips(clips_of(record, clip_seconds, stored), 1.0)) > 1


def _read_array(path: Path, npz_key: str) -> NDArray[np.generic]:
    try:
        if path.suffix != ".npy" and zipfile.is_zipfile(path):
            require_backed(path)
        if path.suffix == ".pt":
            return _read_tensor(path)
        # Memory-mapped, so that an array whose header declares more than the file holds is refused at once.
        content = np.load(path, mmap_mode="r")
        if path.suffix == ".npz" and npz_key not in content:
            raise UserError(f"{path}: has no array '{npz_key}'; check the folder")
        return np.asarray(content[npz_key] if path.suffix == ".npz" else content)
    except UserError:
        raise
    except Exception as error:  # NumPy and PyTorch raise many kinds for a damaged file
        raise UserError(f"{path}: damaged or not an array file; copy it again or make it anew") from error


def _read_tensor(path: Path) -> NDArray[np.generic]:
    import torch

    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("the tensor is larger than its storage")  # would take memory the file does not have
    return np.asarray(tensor.float().numpy())


def _find(folder: Path, name: str, field: str, keys: Iterable[Qid]) -> dict[Qid, Path]:
    """The file of each key that has one.

    Args:
        folder: Folder of the files.
        name: Pattern of the file names, with ``{vid}`` or ``{qid}``.
        field: Field that the pattern names, ``vid`` or ``qid``.
        keys: The vids or qids.

    Raises:
        UserError: No key has a file.
    """
    found = {}
    for key in dict.fromkeys(keys):
        stem = name.replace(f"{{{field}}}", str(key))
        paths = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
        # os.path returns False for a name that is too long for a file, where Path raises.
        if can_name_features(str(key)) and (path := next(filter(os.path.isfile, paths), None)):
            found[key] = path
    if not found:
        example = f"{stem}{{{','.join(SUFFIXES)}}}"
        raise UserError(f"{folder}: has no file for any {field}, e.g. {example}; check --{FLAGS[field]}")
    return found


def _copy(
    writer: FeatureWriter, pooling: str, videos: Mapping[Qid, Path], queries: Mapping[Qid, Path]
) -> None:
    """Read and write one file at a time, skipping what an interrupted import has written."""
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
    parser = Parser(
        prog="sdst features import",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--annotations", type=Path, nargs="+", required=True, metavar="A.jsonl", help="annotation files")
    add("--videos", type=Path, required=True, metavar="DIR", help="folder with one file per video")
    add("--queries", type=Path, required=True, metavar="DIR", help="folder with one file per query")
    add("--video-name", default="{vid}", help="name of a video's file without extension (%(default)s)")
    add("--query-name", default="{qid}", help="name of a query's file, e.g. qid{qid} (%(default)s)")
    add("--backbone", required=True, metavar="NAME", help="network that made the features")
    add("--pooling", choices=["adaptive", "avg", "cls"], default="adaptive", help="see above (%(default)s)")
    add("--video-layers", type=layer_numbers, metavar="I,J,..", help="layer numbers in a video file (1,2,..)")
    add("--text-layers", type=layer_numbers, metavar="I,J,..", help="layer numbers in a query file (1,2,..)")
    add("--clip-seconds", type=positive_number, default=2.0, metavar="S", help="clip length (%(default)s)")
    add("--out", type=Path, required=True, metavar="F.h5", help="feature file to write")
    return parser
