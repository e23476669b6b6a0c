"""Prediction files in the QVHighlights submission format: those of any model are read, ours are written."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.data.jsonlines import read_rows
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.types import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdst.data.jsonlines import Row
    from sdst.types import Record

logger = logging.getLogger(__name__)


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read a prediction file; windows keep the order of the file, because the official metrics rank by it.

    A warning counts the rows whose windows are not sorted by score.

    ``vid`` and ``query`` may be missing (then ""). ``pred_saliency_scores`` may be missing or empty (then None).

    Raises:
        UserError: A row is malformed, or has a reversed window, NaN or Inf; the message names file, line and qid.
    """
    predictions = read_rows(path, _to_prediction)
    unsorted = [p.qid for p in predictions if (np.diff(p.windows[:, 2]) > 0).any()]
    if unsorted:
        logger.warning(
            "%s: rows not sorted by score: %d (first qid %r); the official R1 takes the first window listed, so list "
            "the best one first",
            path,
            len(unsorted),
            unsorted[0],
        )
    return predictions


def warn_of_other_vids(
    path: str | Path, predictions: Sequence[Prediction], records: Sequence[Record]
) -> None:
    """Warn if rows name another video than the annotation of their query; like the official scores, ours use the qid.

    Args:
        path: The prediction file, for the message.
        predictions: Its rows.
        records: Annotations of the same queries.
    """
    vids = {record.qid: record.vid for record in records}
    other = [row.qid for row in predictions if row.vid and row.vid != vids.get(row.qid, row.vid)]
    if other:
        logger.warning(
            "%s: rows that name another 'vid' than the annotation of their qid: %d (first qid %r); only the qid "
            "counts, as in the official evaluation, so check that the files belong together",
            path,
            len(other),
            other[0],
        )


def write_predictions(path: str | Path, predictions: Sequence[Prediction]) -> None:
    """Write one JSON object per prediction, windows by descending score; equal scores keep their order.

    The file appears under its name only when it is complete.

    Raises:
        UserError: A number is not finite, or the file cannot be written.
    """
    text = "".join(
        json.dumps(format_prediction(prediction), allow_nan=False) + "\n" for prediction in predictions
    )
    write_atomically(path, text)


def _to_prediction(row: Row) -> Prediction:
    windows = row.numbers("pred_relevant_windows", 3)
    is_reversed = windows[:, 0] > windows[:, 1]
    if is_reversed.any():
        window = windows[is_reversed.argmax()].tolist()
        raise row.error(f"window {window} ends before it starts; write [start, end, score], times in seconds")
    saliency = row.numbers("pred_saliency_scores") if row.has("pred_saliency_scores") else None
    return Prediction(
        qid=row.qid,
        vid=row.text("vid") if row.has("vid") else "",
        query=row.text("query") if row.has("query") else "",
        windows=windows,
        saliency=saliency if saliency is not None and len(saliency) else None,
    )


def format_prediction(prediction: Prediction) -> dict[str, Any]:
    """The row of a submission file, windows by descending score.

    Raises:
        UserError: A number is not finite, which damaged weights or features cause.
    """
    for values in (prediction.windows, prediction.saliency):
        if values is not None and not np.isfinite(values).all():
            raise UserError(
                f"qid {prediction.qid!r}: predicted NaN or Inf; the checkpoint or the features are damaged"
            )
    by_score = np.argsort(-prediction.windows[:, 2], kind="stable")
    fields = {
        "qid": prediction.qid,
        "query": prediction.query,
        "vid": prediction.vid,
        "pred_relevant_windows": prediction.windows[by_score].tolist(),
    }
    if prediction.saliency is not None:
        fields["pred_saliency_scores"] = prediction.saliency.tolist()
    return fields
