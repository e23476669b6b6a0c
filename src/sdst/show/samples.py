"""Data for the page's list of queries: true and predicted moments of every query of a split, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdst.errors import UserError
from sdst.metrics.error_kinds import CONSIDERED, error_kinds
from sdst.spans import pairwise_iou
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.show.runs import FinishedRun
    from sdst.show.traces import Trace
    from sdst.types import Prediction, Qid, Record


def has_queries_of(run: FinishedRun, split: str, records: Sequence[Record]) -> bool:
    """Whether a run has predictions on a split for exactly the annotated queries."""
    if not RunFolder(run.folder).predictions_path(split).is_file():
        return False
    return not _different(run.predictions(split), records)


def matching_predictions(run: FinishedRun, split: str, records: Sequence[Record]) -> dict[Qid, Prediction]:
    """The run's predictions on a split by qid, checked against the annotations.

    Raises:
        UserError: Predictions and annotations have different queries.
    """
    predictions = run.predictions(split)
    if different := _different(predictions, records):
        qids = ", ".join(sorted({repr(qid) for qid, _, _ in different})[:3])
        raise UserError(
            f"{run.folder}: its {split} predictions and the annotations differ in queries (qid {qids}); "
            "give the annotations of all runs with --annotations"
        )
    return predictions


def _different(predictions: Mapping[Qid, Prediction], records: Sequence[Record]) -> set[tuple[Qid, str, str]]:
    """Qid, vid and query of what is only predicted or only annotated."""
    annotated = {(record.qid, record.vid, record.query) for record in records}
    return annotated ^ {(answer.qid, answer.vid, answer.query) for answer in predictions.values()}


def describe_samples(
    records: Sequence[Record],
    predictions: Sequence[Mapping[Qid, Prediction]],
    traces: Sequence[Mapping[Qid, list[Trace | None]] | None],
    groups: Mapping[str, tuple[float, float]],
) -> list[dict[str, Any]]:
    """One entry per query, in the order of the annotations.

    Args:
        records: Annotated queries.
        predictions: Predictions of each run by qid.
        traces: Traces of each run by qid; None for a run without traces.
        groups: Group of moment lengths -> exclusive lower and inclusive upper bound in seconds.
    """
    return [
        _describe_record(record, groups)
        | {
            "answers": [
                _describe_answer(answers[record.qid], record, None if found is None else found[record.qid])
                for answers, found in zip(predictions, traces, strict=True)
            ]
        }
        for record in records
    ]


def _describe_record(record: Record, groups: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    lengths = [] if record.windows is None else (record.windows[:, 1] - record.windows[:, 0]).tolist()
    return {
        "qid": record.qid,
        "vid": record.vid,
        "query": record.query,
        "duration": record.duration,
        "moments": None if record.windows is None else record.windows.tolist(),
        "groups": [name for name, (low, high) in groups.items() if any(low < s <= high for s in lengths)],
        "annotators": None if record.clip_scores is None else record.clip_scores.tolist(),
    }


def _describe_answer(answer: Prediction, record: Record, found: list[Trace | None] | None) -> dict[str, Any]:
    windows, moments = answer.windows[:CONSIDERED], record.windows
    described: dict[str, Any] = {
        "windows": windows.round(4).tolist(),
        "ious": [],
        "kinds": [],
        "saliency": None if answer.saliency is None else answer.saliency.round(3).tolist(),
        "traces": None
        if found is None
        else [None if trace is None else [trace.references, trace.points] for trace in found],
    }
    if moments is not None:
        described["ious"] = pairwise_iou(windows[:, :2], moments).max(axis=1).round(3).tolist()
        described["kinds"] = error_kinds(windows, moments)
    return described
