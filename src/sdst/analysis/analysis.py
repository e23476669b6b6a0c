"""The complete analysis of a set of predictions, as ``sdst analyze`` reports it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.analysis.calibration import Calibration, calibrate
from sdst.analysis.ceilings import Ceiling, highlight_ceilings, moment_ceilings
from sdst.analysis.groups import GroupScores, measure, measure_groups
from sdst.metrics.error_kinds import KINDS, error_kinds
from sdst.metrics.evaluation import PROTOCOLS, dataset_of, pair, true_moments
from sdst.metrics.moment import MAX_PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.types import Prediction, Record

CALIBRATED = {"first prediction": 1, f"first {MAX_PREDICTIONS} predictions": MAX_PREDICTIONS}
"""Predictions per query whose calibration is measured: name -> number."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Percentages, except for calibration, whose scores and shares are in [0, 1].

    Attributes:
        dataset: Data set that defines the groups of moment lengths and the metrics.
        overall: Scores over all queries.
        groups: Scores by grouping and group; None where a group has no queries.
        ceilings: Scores of oracles on the same annotations.
        highlight_ceilings: Highlight metrics of an oracle by rating; empty where the data set has no highlights.
        kinds: Number of queries of each kind in :data:`sdst.metrics.error_kinds.KINDS`.
        calibration: Calibration for each name in :data:`CALIBRATED`; None where scores are not probabilities.
    """

    dataset: str
    overall: GroupScores
    groups: Mapping[str, Mapping[str, GroupScores | None]]
    ceilings: Sequence[Ceiling]
    highlight_ceilings: Mapping[str, Mapping[str, float]]
    kinds: Mapping[str, int]
    calibration: Mapping[str, Calibration | None]


def analyze(
    predictions: Sequence[Prediction], records: Sequence[Record], dataset: str | None = None
) -> Analysis:
    """Analyse predictions against annotations of the same queries, in any order.

    Args:
        predictions: One prediction per query.
        records: Labelled annotations, at least one.
        dataset: Data set that defines length groups and metrics, as for :func:`sdst.metrics.evaluation.evaluate`.

    Raises:
        UserError: Predictions and annotations differ in queries, labels are missing, or the data set is unknown.
    """
    dataset = dataset_of(records, dataset)
    protocol = PROTOCOLS[dataset]
    lengths = dict(reversed(protocol.length_groups.items()))  # short moments first
    ordered = pair(predictions, records)
    windows, moments = [prediction.windows for prediction in ordered], true_moments(records)
    overall = measure(windows, moments)
    assert overall is not None  # an annotation file has at least one row
    num_queries = Counter(
        kind for shown, spans in zip(windows, moments, strict=True) for kind in error_kinds(shown, spans)
    )
    return Analysis(
        dataset,
        overall,
        measure_groups(ordered, records, lengths),
        moment_ceilings(records, lengths),
        highlight_ceilings(records) if protocol.highlights else {},
        {kind: num_queries[kind] for kind in KINDS},
        {name: calibrate(windows, moments, count) for name, count in CALIBRATED.items()},
    )
