"""``sdst demo``: all steps from videos to moments on the small world, in less than ten minutes on two cores."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sdst.config.compose import compose
from sdst.config.plain_text import quoted
from sdst.config.schema import Decoding
from sdst.console.parser import Parser, at_least
from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.features import extract
from sdst.inference import commands as predicting
from sdst.inference.clips import thumbnails
from sdst.inference.stored import open_matching_store, predict
from sdst.metrics.evaluation import evaluate
from sdst.metrics.trivial import mean_moment, whole_video
from sdst.plotting.predictions import THUMBNAIL_ROW, plot_predictions
from sdst.show.comparison import show
from sdst.sweeps.jobs import train_once
from sdst.training import checkpoint
from sdst.training.run_folder import BEST
from sdst.world.commands import SIZES, SPLITS, make_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.types import Record

SIZE = SIZES["demo"]
PLOTTED = 4
SHOWN = (
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "MR-full-mAP",
    "MR-short-mAP",
    "MR-middle-mAP",
    "MR-long-mAP",
    "HL-min-VeryGood-mAP",
    "HL-min-VeryGood-Hit1",
)


def main(argv: Sequence[str]) -> int:
    """Make a world, extract features, train, compare with trivial baselines, plot, ask about a video, make a page.

    The results of an earlier call in the same folder are reused.

    Raises:
        UserError: A package of a later step is not installed.
    """
    parser = Parser(
        prog="sdst demo",
        description="Run all steps of SDST, from videos to moments, on a small synthetic world.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="output folder (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=at_least(1), help="number of training epochs (default: from the configuration)"
    )
    parser.add_argument(
        "--videos",
        type=at_least(1),
        nargs=3,
        metavar="N",
        help="number of train, val and test videos (default: {} {} {})".format(*SIZE.videos),
    )
    args = parser.parse_args(argv)
    for package in ("lightning", "matplotlib", "transformers"):  # of steps that come after minutes of work
        if find_spec(package) is None:
            raise UserError(f"sdst demo: {package} is not installed; pip install 'sdst[extract,plot,train]'")
    out: Path = args.out

    world = out / "world"
    counts = dict(zip(SPLITS, args.videos or SIZE.videos, strict=True))
    annotations = make_world(world, counts, queries=SIZE.queries, workers=2)
    make_features(world, list(annotations.values()))
    overrides = ["data=world", f"paths.data={quoted(out)}"]
    if args.epochs is not None:
        overrides.append(f"trainer.max_epochs={args.epochs}")
    run_dir = out / ("run" if args.epochs is None else f"run-{args.epochs}-epochs")
    result = train_once(run_dir, compose([*overrides, f"run_dir={quoted(run_dir)}"]))

    records = {split: read_annotations(path).records for split, path in annotations.items()}
    plot = run_dir / "predictions.png"
    _plot(run_dir, records["val"][:PLOTTED], world, plot)
    console = Console(file=sys.stdout)
    for split in ("val", "test"):
        title = f"{split} split of the small world, {len(records[split])} queries"
        console.print(compare_trivial(title, result["best"][split], records[split], records["train"]))
    answer = _ask(run_dir, records["test"][0], world)
    page = show([run_dir])
    console.print(
        f"page of the run     {page} (open it in a browser)\n"
        f"run folder          {run_dir}\nbest checkpoint     {run_dir / BEST}\nprediction plot     {plot}\n"
        f"answer to a query   {answer / 'answer.png'} (the moment as a video clip is in the same folder)\n"
        f"videos and features {world}",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def compare_trivial(
    title: str, ours: dict[str, Any], records: list[Record], train_records: list[Record]
) -> Table:
    """Compare metrics in QVHighlights' protocol with those of two baselines without a model."""
    columns = {
        "SDST": ours,
        "whole video": evaluate(whole_video(records), records, "qvhighlights")["brief"],
        "mean moment": evaluate(mean_moment(records, train_records), records, "qvhighlights")["brief"],
    }
    table = Table("metric", title=title)
    for name in columns:
        table.add_column(name, justify="right")
    for metric in SHOWN:
        values = (brief[metric] for brief in columns.values())
        table.add_row(metric, *("-" if value is None else f"{value:.2f}" for value in values))
    return table


def make_features(world: Path, annotations: Sequence[Path]) -> None:
    """Run ``sdst extract`` with the small backbone, unless the feature file exists.

    Raises:
        UserError: A video cannot be read.
    """
    features = world / "features.h5"
    if features.exists():
        return
    files = [str(path) for path in annotations]
    options = ["--videos", str(world / "videos"), "--config", "small-world", "--workers", "2"]
    if extract.main(["--annotations", *files, *options, "--out", str(features)]):
        raise UserError(f"{world}: some videos are damaged; delete them and run the command again")


def _plot(run_dir: Path, records: list[Record], world: Path, path: Path) -> None:
    model, stored, recipe = checkpoint.load(run_dir / BEST)
    store = open_matching_store(str(world / "features.h5"), recipe)
    decoding = Decoding(**stored["decode"])
    predictions = predict(model, records, store, recipe["clip_seconds"], decoding)
    pictures = [
        thumbnails(world / "videos" / f"{record.vid}.mp4", record.duration, THUMBNAIL_ROW)
        for record in records
    ]
    note = "small world, validation split: best epoch"
    plot_predictions(predictions, records, path, recipe["clip_seconds"], note, pictures)


def _ask(run_dir: Path, record: Record, world: Path) -> Path:
    """Run ``sdst predict --video`` for a query and a video that training did not use; returns the output folder."""
    folder = run_dir / "answer"
    folder.mkdir(exist_ok=True)
    video = world / "videos" / f"{record.vid}.mp4"
    assert record.windows is not None
    moments = ", ".join(f"{start:g}-{end:g} s" for start, end in record.windows.tolist())
    sys.stdout.write(f"\nsdst predict --video {video} --query {record.query!r}  (true: {moments})\n")
    options = ["--checkpoint", str(run_dir / BEST), "--video", str(video), "--query", record.query, "--table"]
    predicting.main([*options, "--plot", str(folder / "answer.png"), "--clips", str(folder)])
    return folder
