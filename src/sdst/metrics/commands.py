"""``sdst evaluate``: score the prediction file of any model with the official metrics."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from sdst.console.parser import Parser
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.metrics.evaluation import PROTOCOLS, evaluate
from sdst.metrics.remarks import remarks

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Evaluate the files named on the command line; prints a table or JSON to stdout.

    Raises:
        UserError: A file is invalid, or the two files have different queries.
    """
    args = _make_parser().parse_args(argv)
    annotations = read_annotations(args.annotations)
    if annotations.repairs:
        log.warning("repaired %s", annotations.repairs)
    predictions = read_predictions(args.predictions)
    try:
        result = evaluate(predictions, annotations.records, args.dataset)
    except UserError as error:
        raise UserError(f"{args.predictions} against {args.annotations}: {error}") from error
    for remark in remarks(predictions, annotations.records):
        log.warning("%s: %s", args.predictions, remark)
    text = json.dumps(result, indent=4) + "\n"
    if args.out:
        write_atomically(args.out, text)
    if args.json:
        sys.stdout.write(text)
    else:
        _print_table(result["brief"], title=f"{len(predictions)} queries")
    return 0


def _make_parser() -> Parser:
    parser = Parser(
        prog="sdst evaluate",
        description="Score a prediction file (QVHighlights submission format) against annotations.",
    )
    parser.add_argument("predictions", metavar="PRED.jsonl", help="the predictions, one query per line")
    parser.add_argument("annotations", metavar="GT.jsonl", help="labelled annotations of the same queries")
    parser.add_argument(
        "--dataset",
        choices=tuple(PROTOCOLS),
        help="dataset whose metrics to report. qvhighlights: the official metrics, with highlight detection if the "
        "predictions have saliency. charades and tacos (the same): R1 at IoU 0.3, 0.5, 0.7, mIoU and mAP, with no "
        "upper limit for long moments. world: the metrics of qvhighlights, and mIoU. Default: qvhighlights "
        "if the annotations have saliency_scores, else charades.",
    )
    parser.add_argument("--out", metavar="F.json", help="also write all metrics to this file")
    parser.add_argument("--json", action="store_true", help="print all metrics as JSON instead of a table")
    return parser


def _print_table(brief: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("metric", title=title)
    table.add_column("%", justify="right")
    for name, value in brief.items():
        table.add_row(name, "none" if value is None else f"{value:.2f}")
    Console(file=sys.stdout).print(table)
