"""``sdst analyze``: where a run, or any method's prediction file, is right and wrong, and how right it could be."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.analysis.analysis import analyze
from sdst.analysis.figures import draw
from sdst.analysis.tables import markdown
from sdst.console.parser import Parser
from sdst.console.terminal import printable
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.metrics.evaluation import PROTOCOLS
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

FOLDER = "analysis"
"""Written beside the predictions unless another place is given."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be analysed.

    Attributes:
        title: What to call it.
        predictions: The submission file.
        annotations: Of the same queries.
        dataset: Whose metrics; None to be told by the annotations.
    """

    title: str
    predictions: Path
    annotations: Path
    dataset: str | None


def main(argv: Sequence[str]) -> int:
    """Write the analysis that the command line asks for, and print where."""
    args = _parser().parse_args(argv)
    if args.source.is_dir():
        if args.dataset is not None:
            raise UserError("sdst analyze: a run knows its data set; leave --dataset out")
        source = _run(args.source, args.split, args.annotations)
    else:
        if args.split is not None:
            raise UserError("sdst analyze: --split is for run folders; leave it out for a prediction file")
        if args.annotations is None:
            raise UserError(f"{args.source}: give the --annotations of a prediction file")
        source = Source(args.source.name, args.source, args.annotations, args.dataset)
    sys.stdout.write(f"{write_analysis(source, args.out or source.predictions.parent / FOLDER)}\n")
    return 0


def write_analysis(source: Source, folder: Path) -> Path:
    """Write analysis.json, analysis.md and the pictures into a folder.

    Returns:
        The Markdown file.

    Raises:
        UserError: A file is bad, the two do not belong together, or the folder cannot be written.
    """
    annotations = read_annotations(source.annotations)
    if annotations.repairs:
        logger.warning("repaired %s", annotations.repairs)
    predictions = read_predictions(source.predictions)
    try:
        analysis = analyze(predictions, annotations.records, source.dataset)
    except UserError as error:
        raise UserError(f"{source.predictions} against {source.annotations}: {error}") from error
    title = printable(f"{source.title} (n = {analysis.overall.num_queries} queries)")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        figures = draw(analysis, title, folder)
    except UserError as error:  # the tables are worth having
        logger.warning("no pictures: %s", error)
        figures = {}
    content = {"title": title, "predictions": str(source.predictions), "annotations": str(source.annotations)}
    text = json.dumps(content | asdict(analysis), indent=2, allow_nan=False) + "\n"
    write_atomically(folder / "analysis.json", text)
    write_atomically(folder / "analysis.md", markdown(analysis, title, figures))
    return folder / "analysis.md"


def _run(folder: Path, split: str | None, annotations: Path | None) -> Source:
    """A run's predictions of a split; by default of the one that chose its checkpoint.

    Raises:
        UserError: No finished run, no such predictions, or the annotations are elsewhere.
    """
    files = RunFolder(folder)
    metrics = files.metrics()
    try:
        split = split or str(metrics["selected"]["split"])
        dataset = str(metrics["dataset"])
        simulated = ", SIMULATED features" * bool(metrics["simulated"])
    except (AttributeError, LookupError, TypeError) as error:
        raise UserError(f"{files.metrics_path}: damaged ({error}); train the run again") from error
    predictions = files.require_predictions(split)
    annotations = annotations or files.annotations_path(split)
    return Source(f"{folder.resolve().name}, {split}{simulated}", predictions, annotations, dataset)


def _parser() -> Parser:
    parser = Parser(
        prog="sdst analyze",
        description="Where predictions are right and wrong: by length, place and number of moments and by words of "
        "the query, kinds of errors, calibration of the score, and what oracles reach. Writes analysis.md, "
        "analysis.json and pictures.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="RUN|PRED.jsonl", help="a run folder, or any method's prediction file")
    add("--split", help="of the run (default: the one that chose its checkpoint)")
    add(
        "--annotations",
        type=Path,
        metavar="A.jsonl",
        help="labelled, of the same queries; for a run by default where it had them",
    )
    add(
        "--dataset",
        choices=tuple(PROTOCOLS),
        help="of a prediction file: whose groups of lengths (default: qvhighlights if the annotations have "
        "saliency_scores, else charades)",
    )
    add("--out", type=Path, metavar="DIR", help=f"where to (default: {FOLDER} beside the predictions)")
    return parser
