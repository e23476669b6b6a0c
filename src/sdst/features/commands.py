"""``sdst features``: tools for feature files."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdst.console.parser import Parser, positive_number
from sdst.console.progress import track
from sdst.console.terminal import printable
from sdst.errors import UserError
from sdst.spans import count_clips

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from sdst.data.store import FeatureStore
    from sdst.types import Record

log = logging.getLogger(__name__)

OWN_PARSER = {
    "merge": ("sdst.features.merge", "merge_main"),
    "import": ("sdst.features.importers.commands", "import_main"),
}
"""Tools with their own argument parser -> (module, function)."""
MOST_PRINTED = 20  # problems; a wrong file can have one per item


def main(argv: Sequence[str]) -> int:
    """Run ``sdst features inspect|validate|merge|import|simulate`` and return the exit status.

    Raises:
        UserError: An argument or file cannot be used.
    """
    if argv and argv[0] in OWN_PARSER:
        module, function = OWN_PARSER[argv[0]]
        return int(getattr(importlib.import_module(module), function)(argv[1:]))
    parser = Parser(prog="sdst features", description="Tools for feature files.")
    tools = parser.add_subparsers(required=True, metavar="inspect|validate|merge|import|simulate")

    inspect = tools.add_parser("inspect", help="show what a feature file holds")
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--json", action="store_true", help="print JSON, not a table")
    inspect.set_defaults(tool=_inspect)

    validate = tools.add_parser(
        "validate", help="read a whole feature file; exit status 2 if it has problems"
    )
    validate.add_argument("file", type=Path)
    validate.add_argument(
        "--annotations", type=Path, nargs="+", default=[], help="files whose videos and queries it must have"
    )
    validate.set_defaults(tool=_validate)

    simulate = tools.add_parser("simulate", help="invent features for annotation files, to rehearse a run")
    add = simulate.add_argument
    add("annotations", type=Path, nargs="+", help="annotation files")
    add("--out", type=Path, required=True, metavar="F.h5", help="feature file to write or to continue")
    add(
        "--layout",
        choices=["sdst"],
        help="write the authors' layout instead: five layers in the folders, or the .tar.gz, .tar or .zip, of --out",
    )
    add("--clip-seconds", type=positive_number, default=2.0, metavar="S", help="clip length (%(default)s)")
    add("--video-dim", type=int, default=768, metavar="N", help="width of video features (%(default)s)")
    add("--text-dim", type=int, default=1024, metavar="N", help="width of query features (%(default)s)")
    add("--levels", type=int, metavar="N", help="deepest layers of each tower (4; 5 with --layout)")
    add("--pooling", nargs="+", choices=["adaptive", "avg", "cls"], default=["adaptive"], help="(adaptive)")
    add("--seed", type=int, default=0, metavar="N", help="another seed gives other features (%(default)s)")
    simulate.set_defaults(tool=_simulate)

    tools.add_parser("merge", help="join feature files of different videos, e.g. shards")
    tools.add_parser("import", help="make a feature file from published features")

    args = parser.parse_args(argv)
    status: int = args.tool(args)
    return status


def _inspect(args: Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from sdst.data.info import read_info
    from sdst.data.store import FeatureStore

    info = read_info(args.file)
    facts: dict[str, Any] = {**asdict(info), "path": str(info.path), "bytes": info.path.stat().st_size}
    facts["clips"] = {}
    for pooling in info.poolings:
        store = FeatureStore(args.file, pooling=pooling)
        counts = [store.num_clips(vid) for vid in store.vids()]
        facts["clips"][pooling] = {"fewest": min(counts), "most": max(counts)}
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=4) + "\n")
        return 0
    console = Console(file=sys.stdout, markup=False)
    table = Table("key", "value", title=facts.pop("path"))
    extra = facts.pop("extra")
    for key, value in (facts | extra).items():
        table.add_row(printable(key), printable(str(value)))
    console.print(table)
    if info.simulated:
        console.print("SIMULATED: made from the annotations; results on it mean nothing.", style="bold red")
    return 0


def _validate(args: Namespace) -> int:
    from sdst.data.info import read_info
    from sdst.data.store import FeatureStore

    records = _read_records(args.annotations)
    poolings = read_info(args.file).poolings
    problems: list[str] = []
    for pooling in poolings:
        problems += _video_problems(FeatureStore(args.file, pooling=pooling), pooling, records)
    problems += _text_problems(FeatureStore(args.file, pooling=poolings[0]), records)
    for problem in problems[:MOST_PRINTED]:
        sys.stdout.write(printable(problem) + "\n")
    if len(problems) > MOST_PRINTED:
        sys.stdout.write(f"... and {len(problems) - MOST_PRINTED} more\n")
    sys.stdout.write(f"{args.file}: {len(problems) or 'no'} problem{'s' * (len(problems) != 1)}\n")
    return 2 if problems else 0


def _video_problems(store: FeatureStore, pooling: str, records: list[Record]) -> list[str]:
    """Videos that are missing, unreadable, or more than a clip longer or shorter than annotated."""
    from sdst.data.annotations import clips_of

    longest: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.duration):
        longest[record.vid] = record
    problems = [f"/video/{pooling} lacks {vid}" for vid in store.missing(longest, [])[0]]
    for vid in track(store.vids(), f"reading videos ({pooling})"):
        try:
            num_clips = store.video(vid).shape[1]
        except UserError as error:
            problems.append(str(error))
            continue
        if vid not in longest:
            continue
        annotated = longest[vid]
        if abs(num_clips - count_clips(clips_of(annotated, store.info.clip_seconds, num_clips), 1.0)) > 1:
            problems.append(
                f"/video/{pooling}/{vid} has {num_clips} clips for {annotated.duration:g} s of video"
            )
    return problems


def _text_problems(store: FeatureStore, records: list[Record]) -> list[str]:
    """Queries that are missing or unreadable."""
    problems = [f"/text lacks {qid}" for qid in store.missing([], (record.qid for record in records))[1]]
    for qid in track(store.qids(), "reading queries"):
        try:
            store.text(qid)
        except UserError as error:
            problems.append(str(error))
    return problems


def _simulate(args: Namespace) -> int:
    from sdst.features.simulate import Simulation, write_simulated
    from sdst.features.simulated_folders import write_folders

    records = _read_records(args.annotations)
    poolings = list(dict.fromkeys(args.pooling))
    sizes: dict[str, Any] = {
        "clip_seconds": args.clip_seconds,
        "video_dim": args.video_dim,
        "text_dim": args.text_dim,
        "levels": args.levels or (5 if args.layout else 4),
        "poolings": poolings,
        "seed": args.seed,
    }
    if args.layout is None:
        write_simulated(records, args.out, **sizes)
    elif len(poolings) > 1:
        raise UserError(
            f"sdst features simulate: --layout {args.layout} has one pooling, got {len(poolings)}"
        )
    else:
        write_folders(Simulation.of(records, **sizes), args.out)
    log.info("%s: simulated features written", args.out)
    return 0


def _read_records(paths: Sequence[Path]) -> list[Record]:
    from sdst.data.annotations import read_annotations
    from sdst.features.writer import require_names

    records = []
    for path in paths:
        annotations = read_annotations(path)
        if annotations.repairs:
            log.warning("%s", annotations.repairs)
        require_names(annotations.records, path)
        records += annotations.records
    return records
