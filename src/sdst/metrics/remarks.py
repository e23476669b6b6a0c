"""What is odd about a prediction file that the official evaluation scores without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.types import Prediction, Record


def remarks(predictions: Sequence[Prediction], records: Sequence[Record]) -> list[str]:
    """Warnings with the number of rows and the first qid; they change no number.

    Args:
        predictions: One prediction per query.
        records: Annotations of the same queries.
    """
    vids = {record.qid: record.vid for record in records}
    unsorted = [row.qid for row in predictions if (np.diff(row.windows[:, 2]) > 0).any()]
    other_vid = [row.qid for row in predictions if row.vid and row.vid != vids.get(row.qid, row.vid)]
    found = []
    if unsorted:
        found.append(
            f"the windows of {len(unsorted)} of {len(predictions)} rows are not sorted by score (first: qid "
            f"{unsorted[0]!r}); as in the official evaluation, R1 takes the first listed window and mAP the first "
            "ten; sort them by falling score"
        )
    if other_vid:
        found.append(
            f"{len(other_vid)} of {len(predictions)} rows name another 'vid' than the annotation of their qid (first: "
            f"qid {other_vid[0]!r}); as in the official evaluation, only the qid counts; check that the files belong "
            "together"
        )
    return found
