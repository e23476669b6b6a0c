"""``sdst evaluate``: score the prediction file of any model with the official metrics."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from sdst.console.parser import Parser
from sdst.data.annotations import of_domain, read_annotations
from sdst.data.predictions import read_predictions, warn_of_other_vids
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.metrics.evaluation import PROTOCOLS, evaluate

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
        log.warning("%s", annotations.repairs)
    records = of_domain(annotations.records, args.domain, args.annotations)
    predictions = read_predictions(args.predictions)
    try:
        result = evaluate(predictions, records, args.dataset)
    except UserError as error:
        raise UserError(f"{args.predictions} against {args.annotations}: {error}") from error
    warn_of_other_vids(args.predictions, predictions, annotations.records)
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
        "predictions have saliency; world adds mIoU; clotho_moment and castella leave out highlights and the limit of "
        "long moments. charades, tacos and activitynet: R1 at IoU 0.3, 0.5, 0.7, mIoU and mAP, with no upper limit "
        "for long moments. ego4d_nlq: R1 and R5 at 0.3 and 0.5, mIoU and mAP. tvsum (five most salient clips) and "
        "youtube_highlights: mAP by domain. Default: qvhighlights if the annotations have saliency_scores, tvsum or "
        "youtube_highlights if they have label, else charades.",
    )
    parser.add_argument(
        "--domain", help="only the annotated queries of this domain (TVSum, YouTube Highlights)"
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
