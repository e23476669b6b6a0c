"""``sdst analyze``: results by query group, error types, calibration and upper bounds of a run or prediction file."""

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
from sdst.data.annotations import of_domain, read_annotations
from sdst.data.predictions import read_predictions, warn_of_other_vids
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.metrics.evaluation import PROTOCOLS
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

FOLDER = "analysis"
"""Output folder, next to the predictions, unless ``--out`` names another."""


@dataclass(frozen=True, slots=True)
class Source:
    """Files to analyse.

    Attributes:
        title: Name in the title of the analysis.
        predictions: Submission file.
        annotations: Annotation file of the same queries.
        dataset: Data set that defines the metrics; None to infer it from the annotations.
        domain: Domain of the annotations that was predicted; None for all.
    """

    title: str
    predictions: Path
    annotations: Path
    dataset: str | None
    domain: str | None = None


def main(argv: Sequence[str]) -> int:
    """Write the analysis and print the path of its Markdown file."""
    args = _parser().parse_args(argv)
    if args.source.is_dir():
        if args.dataset is not None:
            raise UserError(
                "sdst analyze: --dataset is only for prediction files; remove it for a run folder"
            )
        source = _run(args.source, args.split, args.annotations)
    else:
        if args.split is not None:
            raise UserError("sdst analyze: --split is only for run folders; remove it for a prediction file")
        if args.annotations is None:
            raise UserError(f"{args.source}: a prediction file also needs --annotations")
        source = Source(args.source.name, args.source, args.annotations, args.dataset)
    sys.stdout.write(f"{write_analysis(source, args.out or source.predictions.parent / FOLDER)}\n")
    return 0


def write_analysis(source: Source, folder: Path) -> Path:
    """Write analysis.json, analysis.md and the pictures into a folder.

    Returns:
        The Markdown file.

    Raises:
        UserError: A file is invalid, predictions and annotations differ in queries, or the folder cannot be written.
    """
    annotations = read_annotations(source.annotations)
    if annotations.repairs:
        logger.warning("%s", annotations.repairs)
    records = of_domain(annotations.records, source.domain, source.annotations)
    predictions = read_predictions(source.predictions)
    try:
        analysis = analyze(predictions, records, source.dataset)
    except UserError as error:
        raise UserError(f"{source.predictions} against {source.annotations}: {error}") from error
    warn_of_other_vids(source.predictions, predictions, annotations.records)
    num_queries = analysis.overall.num_queries
    title = printable(f"{source.title} (n = {num_queries} {'query' if num_queries == 1 else 'queries'})")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        figures = draw(analysis, title, folder)
    except UserError as error:  # the tables are useful without pictures
        logger.warning("no pictures: %s", error)
        figures = {}
    content = {"title": title, "predictions": str(source.predictions), "annotations": str(source.annotations)}
    text = json.dumps(content | asdict(analysis), indent=2, allow_nan=False) + "\n"
    write_atomically(folder / "analysis.json", text)
    write_atomically(folder / "analysis.md", markdown(analysis, title, figures))
    return folder / "analysis.md"


def _run(folder: Path, split: str | None, annotations: Path | None) -> Source:
    """A run's predictions on a split; by default the split that selected its checkpoint.

    Raises:
        UserError: The run is not finished, or its predictions or annotations are missing.
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
    title, domain = f"{folder.resolve().name}, {split}{simulated}", files.config().data.get("domain")
    return Source(title, predictions, annotations, dataset, domain)


def _parser() -> Parser:
    parser = Parser(
        prog="sdst analyze",
        description="Analyse predictions: results by length, position and number of moments and by words of the query, "
        "error types, calibration of the scores, and oracle upper bounds. Writes analysis.md, analysis.json and "
        "pictures.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="RUN|PRED.jsonl", help="a run folder, or any method's prediction file")
    add("--split", help="split of the run (default: the one that selected its checkpoint)")
    add(
        "--annotations",
        type=Path,
        metavar="A.jsonl",
        help="labelled annotations of the same queries (default for a run: the file in its config.yaml)",
    )
    add(
        "--dataset",
        choices=tuple(PROTOCOLS),
        help="data set of a prediction file, which defines length groups and metrics (default: the one "
        "that the keys of the annotations fit)",
    )
    add("--out", type=Path, metavar="DIR", help=f"output folder (default: {FOLDER} next to the predictions)")
    return parser
