"""Whether a row differs from SDST by more than noise, across seeds and across the queries of the split."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from sdst.data.annotations import of_domain, read_annotations
from sdst.errors import UserError
from sdst.files.yaml import read_yaml
from sdst.metrics import highlight, moment
from sdst.metrics.evaluation import PROTOCOLS
from sdst.reports.statistics import bootstrap_queries, paired_difference
from sdst.sweeps.tables import RUN_FACTS
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sdst.reports.results import Cell, Results, RowResult, Run
    from sdst.sweeps.tables import Column
    from sdst.types import Prediction, Record

SEEDS, QUERIES = "†", "‡"
"""Marks of differences that are not significant across seeds, and across queries."""
ALPHA = 0.05
RESAMPLES = 2000
_MOMENTS = re.compile(r"MR-(full|short|middle|long)-(R1|mAP|mIoU)(?:@(\d\.\d+))?")
_HIGHLIGHTS = re.compile(r"HL-min-(Fair|Good|VeryGood)-(mAP|Hit1)")


def marks(results: Results) -> dict[tuple[str, int], str]:
    """(row, index of the column) -> :data:`SEEDS`, :data:`QUERIES` or both; cells without a mark are absent.

    Queries are compared if the annotations of the runs still exist. A query's value is its mean over the seeds.

    Raises:
        UserError: Predictions or annotations of a run are damaged.
    """
    reference = results.reference
    if reference is None:
        return {}
    found: dict[tuple[str, int], str] = {}
    for index, column in enumerate(results.experiment.columns):
        if column.key in RUN_FACTS:
            continue
        base: NDArray[np.float64] | None = None
        for row in results.rows:
            if row is reference or not row.cells[index].values:
                continue
            mark = SEEDS * _same_over_seeds(row.cells[index], reference.cells[index])
            base = _query_values(reference, column) if base is None else base
            values = _query_values(row, column)
            if base is not None and values is not None and base.shape == values.shape:
                rng = np.random.default_rng(0)
                interval = bootstrap_queries(values, base, rng, resamples=RESAMPLES)
                mark += QUERIES * (interval.low <= 0 <= interval.high)
            if mark:
                found[row.row.label, index] = mark
    return found


def query_values(
    key: str, predictions: Sequence[Prediction], records: Sequence[Record], dataset: str
) -> NDArray[np.float64] | None:
    """Contribution of each query to a metric; the metric is the mean contribution times 100.

    Args:
        key: Key of the metric, as in a run's metrics.json.
        predictions: One prediction per record, in any order.
        records: Labelled annotations.
        dataset: Key of ``PROTOCOLS``.

    Returns:
        (Q,) values of the Q queries that count for the metric; None if the metric is not a mean over queries.
    """
    by_qid = {prediction.qid: prediction for prediction in predictions}
    ordered = [by_qid[record.qid] for record in records]
    if match := _HIGHLIGHTS.fullmatch(key):
        saliency = [prediction.saliency for prediction in ordered if prediction.saliency is not None]
        scores = [record.clip_scores for record in records if record.clip_scores is not None]
        if not len(saliency) == len(scores) == len(records):
            return None
        if match[2] == "mAP":
            precisions = highlight.average_precision(saliency, scores)[match[1]]
            return np.asarray(precisions.mean(axis=1))
        return (highlight.top1_score(saliency, scores) >= highlight.RATINGS[match[1]]).astype(np.float64)
    if (match := _MOMENTS.fullmatch(key)) is None:
        return None
    group, metric, threshold = match.groups()
    low, high = PROTOCOLS[dataset].length_groups.get(group, (-np.inf, np.inf))  # "full": all lengths
    windows, moments = [], []
    for prediction, record in zip(ordered, records, strict=True):
        assert record.windows is not None
        lengths = record.windows[:, 1] - record.windows[:, 0]
        member = (lengths > low) & (lengths <= high)
        if member.any():
            windows.append(prediction.windows)
            moments.append(record.windows[member])
    if not moments:
        return None
    if metric == "mAP":
        precision = moment.average_precision(windows, moments)
        if threshold is None:
            return np.asarray(precision.mean(axis=1))
        return precision[:, moment.MAP_THRESHOLDS.index(float(threshold))]
    iou = moment.top1_iou(windows, moments)
    return iou if metric == "mIoU" else (iou >= float(threshold)).astype(np.float64)


def _same_over_seeds(cell: Cell, reference: Cell) -> bool:
    """Whether the paired t-test over at least two common seeds finds no significant difference."""
    seeds = sorted(cell.values.keys() & reference.values.keys())
    if len(seeds) < 2:
        return False
    difference = paired_difference([cell.values[s] for s in seeds], [reference.values[s] for s in seeds])
    if np.isnan(difference.t_pvalue):  # the difference is the same for all seeds
        return difference.mean == 0
    return difference.t_pvalue >= ALPHA


def _query_values(row: RowResult, column: Column) -> NDArray[np.float64] | None:
    """Contribution of each query to a column's metric, averaged over the row's seeds; None if it is unknown."""
    if column.key is None or column.split is None:
        return None
    values = []
    for run in row.runs:
        if run.status == "finished" and column.dataset in (None, run.dataset):
            contributions = _query_values_of_run(run, column.key, column.split)
            if contributions is None:
                return None
            values.append(contributions)
    return np.asarray(np.mean(values, axis=0)) if values else None


def _query_values_of_run(run: Run, key: str, split: str) -> NDArray[np.float64] | None:
    if not RunFolder(run.folder).is_begun:  # an earlier report kept its numbers only
        return None
    config = read_yaml(RunFolder(run.folder).config_path)
    try:
        source = config["data"]["annotations"][split]
        records = of_domain(read_annotations(source).records, config["data"].get("domain"), source)
        predictions = RunFolder(run.folder).predictions(split)
        return query_values(key, predictions, records, run.metrics["dataset"])
    # The annotations were moved or changed, or have no labels.
    except (UserError, LookupError, TypeError, AssertionError):
        return None
