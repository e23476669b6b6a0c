"""``sdst demo``: the whole path on a small data set that it makes itself, in a few minutes on two cores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sdst import checkpoint
from sdst.baselines.trivial import mean_moment, whole_video
from sdst.callbacks import BEST
from sdst.config import compose
from sdst.data.annotations import read_annotations
from sdst.data.toy import write_toy_annotations
from sdst.errors import Parser, UserError, at_least
from sdst.features.simulate import write_simulated
from sdst.metrics.evaluation import evaluate
from sdst.plot import plot_predictions
from sdst.postprocess import Decoding
from sdst.predict import open_matching_store, predict
from sdst.train import train

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.types import Record

SPLITS = ("train", "val", "test")
SIZES = {"num_train": 350, "num_val": 80, "num_test": 80}
FEATURE_WIDTH = 64
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
    """Make the data, train, evaluate against two trivial baselines, plot, and say where everything is."""
    parser = Parser(prog="sdst demo", description="Train and evaluate SDST on a small data set made here.")
    parser.add_argument("--out", type=Path, help="folder (default: runs/demo, with --world runs/world)")
    parser.add_argument(
        "--epochs", type=at_least(1), help="train shorter or longer than the demo's configuration says"
    )
    parser.add_argument(
        "--world", action="store_true", help="from videos of the small world, not from simulated features"
    )
    parser.add_argument(
        "--videos", type=at_least(1), nargs=3, metavar="N", help="with --world: of train, val and test"
    )
    args = parser.parse_args(argv)
    if args.world:
        from sdst import world_demo  # needs the extract and plot extras

        return world_demo.main(args.out or Path("runs/world"), args.epochs, args.videos)
    if args.videos:
        raise UserError("sdst demo: --videos goes with --world")
    out = args.out or Path("runs/demo")

    data = out / "data"
    records = make_data(data)
    overrides = ["data=toy", f"paths.data={data}", f"paths.runs={out}"]
    if args.epochs is not None:
        overrides.append(f"trainer.max_epochs={args.epochs}")
    config = compose(overrides)
    run_dir = Path(config.run_dir)
    result = train(config, run_dir)

    model, stored, recipe = checkpoint.load(run_dir / BEST)
    shown = records["val"][:PLOTTED]
    store = open_matching_store(str(data / "features.h5"), recipe)
    predictions = predict(model, shown, store, recipe["clip_seconds"], Decoding(**stored["decode"]))
    plot = run_dir / "predictions.png"
    plot_predictions(predictions, shown, plot, recipe["clip_seconds"], "SIMULATED features, validation split")

    console = Console(file=sys.stdout)
    for split in ("val", "test"):
        title = f"{split} split, {len(records[split])} queries, SIMULATED features"
        console.print(compare_trivial(title, result["best"][split], records[split], records["train"]))
    console.print(
        f"run folder         {run_dir}\nbest checkpoint    {run_dir / BEST}\nprediction plot    {plot}\n"
        f"data and features  {data} (simulated)",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def make_data(folder: Path) -> dict[str, list[Record]]:
    """Annotations and simulated features of the demo, made where they are not there yet; the records by split."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {split: folder / f"{split}.jsonl" for split in SPLITS}
    if not all(path.exists() for path in paths.values()):
        write_toy_annotations(folder, **SIZES, seed=0)
    records = {split: read_annotations(path).records for split, path in paths.items()}
    features = folder / "features.h5"
    if not features.exists():
        everything = [record for split in SPLITS for record in records[split]]
        write_simulated(everything, features, video_dim=FEATURE_WIDTH, text_dim=FEATURE_WIDTH)
    return records


def compare_trivial(
    title: str, ours: dict[str, Any], records: list[Record], train_records: list[Record]
) -> Table:
    """Metrics in QVHighlights' protocol beside those of two predictions that need no model."""
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
