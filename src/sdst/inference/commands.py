"""``sdst predict``: moments and saliency for queries about video files or stored features."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch.utils.data import DataLoader

from sdst.config.schema import Decoding
from sdst.console.parser import Parser, at_least
from sdst.console.terminal import printable
from sdst.data.annotations import read_annotations
from sdst.data.collate import collate
from sdst.data.dataset import GroundingDataset
from sdst.data.predictions import format_prediction, write_predictions
from sdst.data.sampler import EpochSampler
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.backbone.backbone import usable_device
from sdst.models.decoding import decode
from sdst.plotting.predictions import SHOWN_MOMENTS, plot_predictions
from sdst.training import checkpoint
from sdst.types import Record

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from torch import nn

    from sdst.plotting.predictions import Thumbnail
    from sdst.types import Batch, Output, Prediction

MAX_PLOTTED = 12
PICTURES = (".png", ".jpg", ".pdf", ".svg")
NOT_COMPARED = ("pooling", "video_layers", "text_layers", "simulated", "max_clips", "fingerprint")
"""Keys of a recipe by which a store is opened, or that do not tell how features are made."""


def main(argv: Sequence[str]) -> int:
    """Predict what the command line asks for.

    Raises:
        UserError: A file is bad, or the features are not made like those the checkpoint was trained on.
    """
    args = _make_parser().parse_args(argv)
    for path in (args.out, args.plot):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise UserError(f"{path}: its folder does not exist; make it or choose another place")
    if args.plot and Path(args.plot).suffix.lower() not in PICTURES:
        raise UserError(f"{args.plot}: no picture format; choose from {', '.join(PICTURES)}")
    if args.video:
        return _predict_videos(args)
    if args.features is None:
        raise UserError("sdst predict: give --video files, or --features of stored videos and queries")
    return _ask_stored(args) if args.query else _predict_stored(args)


def _predict_stored(args: Namespace) -> int:
    """The annotated queries, or those of --qid."""
    _refuse(args, ("backbone_checkpoint", "vocab", "clips"), "needs --video or --query")
    device = usable_device(args.device)
    model, config, recipe = checkpoint.load(args.checkpoint)
    store = open_matching_store(args.features, recipe)
    records = _choose_records(args.annotations, args.vid, args.qid, store)
    decoding = Decoding(**config["decode"])
    predictions = predict(model.to(device), records, store, recipe["clip_seconds"], decoding, args.batch_size)
    _report(args, predictions, records, recipe)
    return 0


def _ask_stored(args: Namespace) -> int:
    """New queries about a stored video."""
    _refuse(args, ("clips",), "needs --video")
    _refuse(args, ("annotations", "qid"), "is for stored queries; leave it or --query out")
    if args.vid is None:
        raise UserError("sdst predict: --query needs --video, or with --features the --vid of a stored video")
    # Only here, as for videos.
    from sdst.inference.video import (
        check_backbone_options,
        check_queries,
        load_grounder,
        predict_stored_video,
    )

    check_queries(args)
    check_backbone_options(args)
    _, _, recipe = checkpoint.load(args.checkpoint)
    store = open_matching_store(args.features, recipe)
    store.require([args.vid], [])  # before the backbone is loaded
    answers = predict_stored_video(load_grounder(args), store, args.vid, args.query)
    _report(args, answers.predictions, answers.records, recipe)
    return 0


def _predict_videos(args: Namespace) -> int:
    """All queries about every video file."""
    _refuse(
        args, ("features", "annotations", "qid", "vid"), "is for stored features; leave it or --video out"
    )
    # Only here: videos need libraries that stored features do without.
    from sdst.inference.video import check_arguments, load_grounder, predict_videos

    check_arguments(args)
    grounder = load_grounder(args)
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
    """Write, draw and print what the command line asks for."""
    if args.out:
        write_predictions(args.out, predictions)
    if args.plot:
        if len(records) > MAX_PLOTTED:
            sys.stderr.write(f"--plot: showing the first {MAX_PLOTTED} of {len(records)} queries\n")
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
            # Text, for a query in brackets is no markup.
            texts = (prediction.vid, prediction.query) if rank == 0 else ("", "")
            table.add_row(
                *(Text(printable(text)) for text in texts), _clock(start), _clock(end), f"{score:.2f}"
            )
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}"


def predict(
    model: nn.Module,
    records: Sequence[Record],
    store: FeatureStore,
    clip_seconds: float,
    decoding: Decoding,
    batch_size: int = 32,
) -> list[Prediction]:
    """One prediction per record, in their order; the same at any batch size."""
    predictions = []
    for batch, output in run_model(model, records, store, clip_seconds, batch_size):
        predictions += decode(output, batch, decoding)
    by_qid = {prediction.qid: prediction for prediction in predictions}
    return [by_qid[record.qid] for record in records]


def run_model(
    model: nn.Module,
    records: Sequence[Record],
    store: FeatureStore,
    clip_seconds: float,
    batch_size: int = 32,
    **options: bool,
) -> Iterator[tuple[Batch, Output]]:
    """Batches of the records, from short to long videos, with the model's outputs, both where the model is.

    Args:
        model: In evaluation mode.
        records: Annotations, labelled or not; every video and query must be in the store.
        store: Features like those that the model was trained on.
        clip_seconds: Clip length.
        batch_size: Queries at once.
        options: Of the model's ``forward``.
    """
    dataset = GroundingDataset(records, store, clip_seconds, seed=None)
    loader = DataLoader(
        dataset, batch_size=batch_size, sampler=EpochSampler(dataset.num_clips, seed=None), collate_fn=collate
    )
    device = next(model.parameters()).device
    for loaded in loader:
        batch = loaded.to(device)
        with torch.inference_mode():
            output = model(*batch.inputs(), **options)
        yield batch, output


def open_matching_store(path: str, recipe: dict[str, Any]) -> FeatureStore:
    """The feature store, if it was made like the features of the checkpoint with this recipe.

    Raises:
        UserError: Another backbone, clip length, pooling, layers or anything else that the recipe tells; it names
            the first difference.
    """
    store = FeatureStore(
        path,
        pooling=recipe["pooling"],
        video_layers=recipe["video_layers"],
        text_layers=recipe["text_layers"],
    )
    found = {
        "backbone": store.info.backbone,
        "clip_seconds": store.info.clip_seconds,
        "video_dim": store.video_dim,
        "text_dim": store.text_dim,
        **store.info.extra,
    }
    wanted = {key: value for key, value in recipe.items() if key not in NOT_COMPARED}
    checkpoint.require_same(path, found, wanted)
    return store


def _choose_records(
    annotations: str | None, vid: str | None, qids: Sequence[str], store: FeatureStore
) -> list[Record]:
    """The annotated records with these qids (all where none is given), or unlabelled ones made up for a vid."""
    if annotations is None:
        if vid is None or not qids:
            raise UserError("sdst predict: give --annotations, or --vid and --qid of stored features")
        store.require([vid], qids)
        duration = store.num_clips(vid) * store.info.clip_seconds
        return [Record(qid, vid, query="", duration=duration) for qid in qids]
    records = read_annotations(annotations).records
    if qids:
        # The command line knows only strings, files have integers too.
        by_qid = {str(record.qid): record for record in records}
        if absent := [qid for qid in qids if qid not in by_qid]:
            raise UserError(
                f"{annotations}: has no qid {absent[0]}; choose from {', '.join(list(by_qid)[:3])}, ..."
            )
        records = [by_qid[qid] for qid in qids]
    if vid is not None:
        records = [record for record in records if record.vid == vid]
        if not records:
            raise UserError(f"{annotations}: has no such query of video {vid}; choose another --vid")
    store.require([record.vid for record in records], [record.qid for record in records])
    return records


def _make_parser() -> Parser:
    parser = Parser(
        prog="sdst predict",
        description="Moments (start s, end s, score) and raw saliency (cosine per clip, higher is more relevant; it "
        "may be negative) of queries about video files or about stored features, as JSON lines in the QVHighlights "
        "submission format.",
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="C", help="best.ckpt or last.ckpt of a run")
    add("--query", action="append", metavar="TEXT", help="ask every --video, or the --vid, this (repeatable)")
    add_backbone_options(parser)
    add("--out", metavar="F.jsonl", help="write here instead of to stdout")
    add("--table", action="store_true", help=f"print the best {SHOWN_MOMENTS} moments as a table instead")
    add("--json", action="store_true", help="print JSON lines, the default without --out and --table")
    add("--plot", metavar="F.png", help=f"also draw the first {MAX_PLOTTED} queries")

    add = parser.add_argument_group("video files").add_argument
    add("--video", type=Path, nargs="+", action="extend", metavar="F.mp4", help="ask about these; any length")
    add("--clips", type=Path, metavar="DIR", help="also cut each query's best moments out, into mp4 files")
    add("--clips-per-query", type=at_least(1), default=1, metavar="N", help="how many moments (%(default)s)")

    add = parser.add_argument_group("stored features").add_argument
    add(
        "--features",
        metavar="H5",
        help="feature store with the videos, and the queries of --annotations and --qid",
    )
    add("--annotations", metavar="A.jsonl", help="predict the queries of this file")
    add("--qid", action="append", default=[], help="only this query (repeatable)")
    add("--vid", help="only this video; without --annotations, the video to ask --qid or --query about")
    add(
        "--batch-size", type=at_least(1), default=32, metavar="N", help="stored queries at once (%(default)s)"
    )
    return parser


def add_backbone_options(parser: Parser) -> None:
    """The options that :func:`sdst.inference.video.load_grounder` takes besides ``--checkpoint``."""
    add = parser.add_argument
    add(
        "--backbone-checkpoint",
        metavar="B",
        help="InternVideo2 stage-2 weights; the small backbone needs none",
    )
    add("--backbone-config", default="internvideo2-1b", help="preset or JSON file (%(default)s)")
    add("--vocab", metavar="V", help="vocab.txt of bert-large-uncased")
    add("--device", help="e.g. cuda:1; by default the first GPU, else the CPU")
