"""``sdst predict``: a checkpoint's moments and saliency for stored queries, as JSON lines and as a plot."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from sdst import checkpoint
from sdst.data.annotations import read_annotations
from sdst.data.collate import collate
from sdst.data.dataset import EpochSampler, GroundingDataset
from sdst.errors import Parser, UserError
from sdst.features.store import FeatureStore
from sdst.plot import plot_predictions
from sdst.postprocess import Decoding, decode
from sdst.predictions import format_prediction, write_predictions
from sdst.types import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from sdst.types import Prediction

MAX_PLOTTED = 12


def main(argv: Sequence[str]) -> int:
    """Predict what the command line asks for.

    Raises:
        UserError: A file is bad, or the features are not made like those the checkpoint was trained on.
    """
    args = _make_parser().parse_args(argv)
    model, config, recipe = checkpoint.load(args.checkpoint)
    store = open_matching_store(args.features, recipe)
    records = _choose_records(args.annotations, args.vid, args.qid, store)
    predictions = predict(
        model, records, store, recipe["clip_seconds"], Decoding(**config["decode"]), args.batch_size
    )
    if args.plot:
        if len(records) > MAX_PLOTTED:
            sys.stderr.write(f"--plot: showing the first {MAX_PLOTTED} of {len(records)} queries\n")
        note = "SIMULATED features" if recipe["simulated"] else ""
        plot_predictions(
            predictions[:MAX_PLOTTED], records[:MAX_PLOTTED], args.plot, recipe["clip_seconds"], note
        )
    if args.out:
        write_predictions(args.out, predictions)
    else:
        for prediction in predictions:
            sys.stdout.write(json.dumps(format_prediction(prediction)) + "\n")
    return 0


def predict(
    model: nn.Module,
    records: Sequence[Record],
    store: FeatureStore,
    clip_seconds: float,
    decoding: Decoding,
    batch_size: int = 32,
) -> list[Prediction]:
    """One prediction per record, in their order; the same at any batch size."""
    dataset = GroundingDataset(records, store, clip_seconds, seed=None)
    loader = DataLoader(
        dataset, batch_size=batch_size, sampler=EpochSampler(len(dataset), seed=None), collate_fn=collate
    )
    predictions = []
    with torch.inference_mode():
        for batch in loader:
            output = model(batch.video, batch.video_mask, batch.text, batch.text_mask, batch.num_clips)
            predictions += decode(output, batch, decoding)
    return predictions


def open_matching_store(path: str, recipe: dict[str, Any]) -> FeatureStore:
    """The feature store, if it was made like the features of the checkpoint with this recipe.

    Raises:
        UserError: Another backbone, clip length, pooling, width or layers; it names the first difference.
    """
    store = FeatureStore(
        path,
        pooling=recipe["pooling"],
        video_layers=recipe["video_layers"],
        text_layers=recipe["text_layers"],
    )
    found = {
        "video_dim": store.video_dim,
        "text_dim": store.text_dim,
        "clip_seconds": store.info.clip_seconds,
        "backbone": store.info.backbone,
    }
    for key, value in found.items():
        if value != recipe[key]:
            raise UserError(
                f"{path}: {key} is {value}, but the checkpoint was trained with {recipe[key]}; "
                "give features made like those it was trained on"
            )
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
        "may be negative) of stored queries, as JSON lines in the QVHighlights submission format.",
    )
    parser.add_argument("--checkpoint", required=True, metavar="C", help="best.ckpt or last.ckpt of a run")
    parser.add_argument(
        "--features", required=True, metavar="H5", help="feature store with the videos and queries"
    )
    parser.add_argument("--annotations", metavar="A.jsonl", help="predict the queries of this file")
    parser.add_argument("--qid", action="append", default=[], help="only this query (repeatable)")
    parser.add_argument("--vid", help="only this video; without --annotations, the video to ask --qid about")
    parser.add_argument("--out", metavar="F.jsonl", help="write here instead of to stdout")
    parser.add_argument("--plot", metavar="F.png", help=f"also draw the first {MAX_PLOTTED} queries")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="queries at once (default 32)"
    )
    return parser
