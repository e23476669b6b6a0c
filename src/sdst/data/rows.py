"""Which annotated rows a run can use: those with labels and moments to learn from, and those with features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdst.data.annotations import moments_inside
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.data.store import FeatureStore
    from sdst.types import Record


def training_rows(
    records: Sequence[Record], min_duration: float, source: str
) -> tuple[list[Record], list[str]]:
    """The rows that a model can learn from, and notes on those left out.

    Left out are videos shorter than ``min_duration`` seconds (App. A) and queries whose moments all lie outside their
    video or have no length.

    Raises:
        UserError: ``source``, the annotation file, has unlabelled rows, or none is left.
    """
    notes = []
    if unlabelled := sum(not record.is_labelled for record in records):
        raise UserError(f"{source}: {unlabelled} rows lack relevant_windows; cannot train")
    longer = [record for record in records if record.duration >= min_duration]
    if not longer:
        raise UserError(
            f"{source}: every video is shorter than data.min_duration = {min_duration:g} s; lower it"
        )
    if len(longer) < len(records):
        notes.append(f"left out {len(records) - len(longer)} shorter than {min_duration:g} s")
    used = [record for record in longer if record.windows is None or len(moments_inside(record))]
    if not used:
        raise UserError(f"{source}: no moment has a length inside its video; correct them")
    windows = sum(len(record.windows) for record in longer if record.windows is not None)
    if unusable := windows - sum(len(moments_inside(record)) for record in longer):
        notes.append(
            f"left out {unusable} moments without length inside their video and "
            f"{len(longer) - len(used)} queries without another"
        )
    return used, notes


def rows_with_features(records: Sequence[Record], store: FeatureStore, missing: str) -> list[Record]:
    """The rows whose video and query are in the store.

    Args:
        records: Annotations.
        store: The features.
        missing: Whether to ``refuse`` or ``leave_out`` rows without features.

    Raises:
        UserError: Rows without features are refused, or no row has any.
    """
    vids, qids = [record.vid for record in records], [record.qid for record in records]
    if missing == "leave_out":
        without = {*store.missing(vids, [])[0]}, {*store.missing([], qids)[1]}
        stored = [r for r in records if r.vid not in without[0] and str(r.qid) not in without[1]]
        if stored:
            return stored
    store.require(vids, qids)
    return list(records)
