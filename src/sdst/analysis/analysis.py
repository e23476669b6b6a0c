"""All that ``sdst analyze`` finds out about a set of predictions."""

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
"""Which predictions of a query: name and number."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Percentages, except for calibration, whose scores and shares are in [0, 1].

    Attributes:
        dataset: Whose groups of moment lengths and whose metrics.
        overall: Scores over all queries.
        groups: Scores by grouping and group; None where a group has no queries.
        ceilings: What oracles score on the same annotations.
        highlight_ceilings: Their highlight metrics by rating; empty where the data set has none.
        kinds: How many queries are of each of :data:`sdst.metrics.error_kinds.KINDS`.
        calibration: By :data:`CALIBRATED`; None where scores are no probabilities.
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
        predictions: One per query.
        records: At least one, labelled.
        dataset: Whose groups of lengths and metrics, as for :func:`sdst.metrics.evaluation.evaluate`.

    Raises:
        UserError: The queries of the two differ, labels are missing, or there is no such data set.
    """
    dataset = dataset_of(records, dataset)
    protocol = PROTOCOLS[dataset]
    lengths = dict(reversed(protocol.length_groups.items()))  # short moments first
    ordered = pair(predictions, records)
    windows, moments = [prediction.windows for prediction in ordered], true_moments(records)
    overall = measure(windows, moments)
    assert overall is not None  # there are records
    found = Counter(
        kind for shown, spans in zip(windows, moments, strict=True) for kind in error_kinds(shown, spans)
    )
    return Analysis(
        dataset,
        overall,
        measure_groups(ordered, records, lengths),
        moment_ceilings(records, lengths),
        highlight_ceilings(records) if protocol.highlights else {},
        {kind: found[kind] for kind in KINDS},
        {name: calibrate(windows, moments, count) for name, count in CALIBRATED.items()},
    )
