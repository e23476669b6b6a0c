"""``sdst predict``: moments and saliency for queries about video files or stored features."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdst.config.schema import Decoding
from sdst.console.parser import Parser, at_least
from sdst.console.terminal import printable
from sdst.data.predictions import format_prediction, write_predictions
from sdst.errors import UserError
from sdst.features.backbone.backbone import usable_device
from sdst.inference.stored import choose_records, longer_features, open_matching_store, predict
from sdst.plotting.predictions import SHOWN_MOMENTS, plot_predictions
from sdst.training import checkpoint
from sdst.training.run_folder import find_checkpoint

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from sdst.plotting.predictions import Thumbnail
    from sdst.types import Prediction, Record

MAX_PLOTTED = 12
SMALL_WORLD = Path(__file__).parent / "small_world"
"""The model that comes with the package, as ``sdst push`` wrote it."""
PLOT_SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Raises:
        UserError: A file cannot be used, or the features were not made like those the checkpoint was trained on.
    """
    args = _make_parser().parse_args(argv)
    for path in (args.out, args.plot):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise UserError(f"{path}: its folder does not exist; create it or choose another path")
    if args.plot and Path(args.plot).suffix.lower() not in PLOT_SUFFIXES:
        raise UserError(f"{args.plot}: unknown picture format; use {', '.join(PLOT_SUFFIXES)}")
    if not args.video and args.features is None:
        raise UserError("sdst predict: give --video with video files, or --features with a feature file")
    choose_checkpoint(args)
    if args.video:
        return _predict_videos(args)
    return _ask_stored(args) if args.query else _predict_stored(args)


def _predict_stored(args: Namespace) -> int:
    """Predict the stored queries of --annotations or --qid."""
    _refuse(args, ("backbone_checkpoint", "vocab", "clips"), "needs --video or --query")
    device = usable_device(args.device)
    model, config, recipe = checkpoint.load(args.checkpoint)
    store = open_matching_store(args.features, recipe)
    records = choose_records(args.annotations, args.vid, args.qid, store)
    decoding = Decoding(**config["decode"])
    longer = longer_features(config["data"])
    predictions = predict(
        model.to(device), records, store, recipe["clip_seconds"], decoding, args.batch_size, longer
    )
    _report(args, predictions, records, recipe)
    return 0


def _ask_stored(args: Namespace) -> int:
    """Predict new queries about a stored video."""
    _refuse(args, ("clips",), "needs --video")
    _refuse(args, ("annotations", "qid"), "selects stored queries; drop it or --query")
    if args.vid is None:
        raise UserError("sdst predict: --query needs --video, or --features with --vid")
    # Imported here because it needs PyAV, and stored queries do not.
    from sdst.inference.video import (
        check_backbone_options,
        check_queries,
        load_grounder,
        predict_stored_video,
        warn_about_words,
    )

    check_queries(args)
    check_backbone_options(args)
    _, _, recipe = checkpoint.load(args.checkpoint)
    store = open_matching_store(args.features, recipe)
    store.require([args.vid], [])  # before the backbone is loaded
    grounder = load_grounder(args)
    warn_about_words(grounder, args.query)
    answers = predict_stored_video(grounder, store, args.vid, args.query)
    _report(args, answers.predictions, answers.records, recipe)
    return 0


def _predict_videos(args: Namespace) -> int:
    """Predict all queries for every video file."""
    _refuse(args, ("features", "annotations", "qid", "vid"), "selects stored features; drop it or --video")
    # Imported here because it needs PyAV, and stored features do not.
    from sdst.inference.video import check_arguments, load_grounder, predict_videos, warn_about_words

    check_arguments(args)
    grounder = load_grounder(args)
    warn_about_words(grounder, args.query)
    answers = predict_videos(args, grounder)
    if answers.predictions:
        _report(args, answers.predictions, answers.records, grounder.recipe, answers.thumbnails)
    if answers.damaged:
        raise UserError("; ".join(answers.damaged))
    return 0


def _refuse(args: Namespace, options: Sequence[str], reason: str) -> None:
    for option in options:
        if getattr(args, option):
            raise UserError(f"sdst predict: --{option.replace('_', '-')} {reason}")


def _report(
    args: Namespace,
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    recipe: dict[str, Any],
    thumbnails: Sequence[Sequence[Thumbnail]] | None = None,
) -> None:
    """Write, plot and print the predictions, as the options say."""
    if args.out:
        write_predictions(args.out, predictions)
    if args.plot:
        if len(records) > MAX_PLOTTED:
            sys.stderr.write(f"--plot: drawing the first {MAX_PLOTTED} of {len(records)} queries\n")
        note = "SIMULATED features" if recipe["simulated"] else ""
        shown = slice(MAX_PLOTTED)
        plot_predictions(
            predictions[shown], records[shown], args.plot, recipe["clip_seconds"], note, thumbnails
        )
    if args.table:
        Console(file=sys.stdout).print(_table(predictions))
    elif args.json or not args.out:
        for prediction in predictions:
            sys.stdout.write(json.dumps(format_prediction(prediction)) + "\n")


def _table(predictions: Sequence[Prediction]) -> Table:
    table = Table("video", "query", "start", "end", "score")
    for prediction in predictions:
        for rank, (start, end, score) in enumerate(prediction.windows[:SHOWN_MOMENTS].tolist()):
            # Text, because rich reads a plain string in brackets as markup.
            texts = (prediction.vid, prediction.query) if rank == 0 else ("", "")
            table.add_row(
                *(Text(printable(text)) for text in texts), _clock(start), _clock(end), f"{score:.2f}"
            )
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}"


def _make_parser() -> Parser:
    parser = Parser(
        prog="sdst predict",
        description="Find the moments (start and end in seconds, score) of queries in video files or stored "
        "features, and the saliency of every clip (higher is more relevant; it may be negative). Prints "
        "JSON lines in the QVHighlights submission format.",
    )
    add = parser.add_argument
    add_checkpoint_option(parser)
    add(
        "--query",
        action="append",
        metavar="TEXT",
        help="query about every --video, or about --vid (repeatable)",
    )
    add_backbone_options(parser)
    add("--out", metavar="F.jsonl", help="write JSON lines to this file, not to stdout")
    add("--table", action="store_true", help=f"print a table of the best {SHOWN_MOMENTS} moments, not JSON")
    add("--json", action="store_true", help="print JSON lines (default without --out and --table)")
    add("--plot", metavar="F.png", help=f"draw the first {MAX_PLOTTED} queries")

    add = parser.add_argument_group("video files").add_argument
    add("--video", type=Path, nargs="+", action="extend", metavar="F.mp4", help="video files of any length")
    add("--clips", type=Path, metavar="DIR", help="save each query's best moments there as mp4 files")
    add("--clips-per-query", type=at_least(1), default=1, metavar="N", help="moments to save (%(default)s)")

    add = parser.add_argument_group("stored features").add_argument
    add("--features", metavar="F.h5", help="feature file with the videos and the stored queries")
    add("--annotations", metavar="A.jsonl", help="predict the queries of this file")
    add("--qid", action="append", default=[], help="predict only this stored query (repeatable)")
    add("--vid", help="predict only this video; without --annotations, the video of --qid or --query")
    add("--batch-size", type=at_least(1), default=32, metavar="N", help="queries per batch (%(default)s)")
    return parser


def add_checkpoint_option(parser: Parser) -> None:
    """Add ``--checkpoint``, whose value :func:`choose_checkpoint` completes."""
    parser.add_argument(
        "--checkpoint",
        metavar="C",
        help="a run folder, its best.ckpt or last.ckpt, or a model of sdst push: a folder, F.zip or hf://user/name "
        "(default: the small world's model)",
    )


def choose_checkpoint(args: Namespace) -> None:
    """Find the file or folder of ``--checkpoint``; without it, take the small world's model and say so.

    Raises:
        UserError: The folder holds no model, or the Hugging Face Hub gives no access.
    """
    if args.checkpoint is None:
        args.checkpoint = SMALL_WORLD
        sys.stderr.write(
            "using the small world's model: knows coloured shapes, not real scenes; give --checkpoint for your own\n"
        )
    args.checkpoint = find_checkpoint(args.checkpoint)


def add_backbone_options(parser: Parser) -> None:
    """Add the options that :func:`sdst.inference.video.load_grounder` reads, except ``--checkpoint``."""
    add = parser.add_argument
    add(
        "--backbone-checkpoint",
        metavar="B",
        help="InternVideo2 stage-2 weights; not needed for the small-world backbone",
    )
    add("--backbone-config", default="internvideo2-1b", help="preset or JSON file (%(default)s)")
    add("--vocab", metavar="V", help="vocab.txt of bert-large-uncased")
    add("--device", help="e.g. cuda:1 (default: the first GPU, or the CPU)")
