"""``sdst features import``: make a feature file from published features, with a coverage report."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdst.console.parser import Parser, positive_number
from sdst.data.annotations import read_annotations
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.extract import layer_numbers
from sdst.features.importers import axes, layouts
from sdst.features.importers.coverage import measure_coverage, report
from sdst.features.importers.run import Import
from sdst.features.selection import unique_records

if TYPE_CHECKING:
    from collections.abc import Sequence


DESCRIPTION = """\
Make a feature file from published features or feature folders of other projects.

  sdst features import --from downloads/ --annotations train.jsonl val.jsonl --out F.h5
  sdst features import --videos slowfast/ --videos clip/ --queries clip_text/ ...

A folder is searched with its sub-folders and the archives in it; .tar, .tar.gz, .tgz and .zip are read without
unpacking them, also split ones (X.tar.gz.aa, .ab, ...). They hold one file per video or query, named after its
vid or qid:

  .npy   an array
  .npz   an array, e.g. under the key 'features' (video) or 'last_hidden_state' (query)
  .pt    a tensor, or a dictionary with one

with one of these shapes:

  video  (T, D), (T, layers, D) or (T, layers, tokens, D)
  query  (L, D), (L, layers, D) or (layers, L, D)

T counts the clips of the video and L the tokens of the query; layers go from shallow to deep. A leading axis of 1
is ignored. All videos must have the same layers and D, and so must all queries. The order of a query's axes is
found by comparing files: lengths vary, layers do not. If a file holds all tokens of a clip, --pooling avg stores
their mean and --pooling cls the first one; otherwise each clip's vector is stored unchanged, under the name of
the pooling. Several --videos are joined over D and cut to the shortest. Nothing is normalised or appended.

Annotated videos and queries without a file do not stop the import, nor do videos more than a clip longer or
shorter than annotated: they are counted and listed in OUT.missing.jsonl, and the exit status is 3. An import that
was interrupted continues when the command is repeated.
"""
"""Description of the command, with the files it reads."""


def import_main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status, 3 if annotated items have no features or other lengths.

    Raises:
        UserError: An option or file cannot be used.
    """
    args = _parser().parse_args(argv)
    if args.out.exists():
        raise UserError(
            f"{args.out}: already exists and is never overwritten; delete it or choose another name"
        )
    splits = {path: read_annotations(path).records for path in args.annotations}
    with ExitStack() as stack:
        Import(args, unique_records(splits), stack).run()
    store = FeatureStore(args.out, pooling=args.pooling)
    return report(args.out, [measure_coverage(store, path.name, split) for path, split in splits.items()])


def _parser() -> Parser:
    parser = Parser(
        prog="sdst features import",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add: Any = parser.add_argument
    names = [layout.name for layout in layouts.LAYOUTS]
    add("--annotations", type=Path, nargs="+", required=True, metavar="A.jsonl", help="annotation files")
    place: dict[str, Any] = {"type": Path, "action": "append", "default": [], "metavar": "PATH"}
    add("--from", dest="roots", **place, help="folder or archive with videos and queries")
    add("--videos", **place, help="folder or archive of videos; several are joined over D")
    add("--queries", **place, help="folder or archive of queries")
    add("--layout", choices=["auto", *names], default="auto", help="published layout (%(default)s)")
    add("--video-name", metavar="NAME", help="name of a video's file, e.g. {vid}-cam-002 (the usual ones)")
    add("--query-name", metavar="NAME", help="name of a query's file, e.g. qid{qid} (the usual ones)")
    add("--video-key", metavar="KEY", help="name of the array in a video's file (the usual ones)")
    add("--query-key", metavar="KEY", help="name of the array in a query's file (the usual ones)")
    order = " or ".join(axes.AXES)
    add(
        "--text-axes",
        choices=axes.AXES,
        metavar="AXES",
        help=f"{order}, of a query (found by comparing files)",
    )
    add("--backbone", metavar="NAME", help="network that made the features (the layout's)")
    add("--pooling", choices=["adaptive", "avg", "cls"], default="adaptive", help="see above (%(default)s)")
    add("--video-layers", type=layer_numbers, metavar="I,J,..", help="layer numbers in a video file (1,2,..)")
    add("--text-layers", type=layer_numbers, metavar="I,J,..", help="layer numbers in a query file (1,2,..)")
    add("--clip-seconds", type=positive_number, metavar="S", help="clip length (what fits the layout, or 2)")
    add("--out", type=Path, required=True, metavar="F.h5", help="feature file to write")
    return parser
