"""Evaluation of a set of predictions with the metrics that a dataset reports, also by length of the moments."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from sdst.errors import UserError
from sdst.metrics.highlight import highlight_metrics
from sdst.metrics.moment import MAP_THRESHOLDS, moment_metrics
from sdst.metrics.ranking import TVSUM, YOUTUBE, Ranking, domain_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sdst.types import Prediction, Qid, Record

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Protocol:
    """Metrics that a dataset reports.

    Attributes:
        recall_thresholds: IoU thresholds of R1 in the details.
        brief_recalls: IoU thresholds of R1 in the summary, some of ``recall_thresholds``.
        longest: Upper end in seconds of the group of long moments.
        mean_iou: Whether mIoU is reported.
        highlights: Whether highlight detection is evaluated.
        recall_counts: Values of N for which the recall RN among the first N predictions is reported.
        ranking: How ranked clips are scored; these are then the only metrics. None for data sets with moments.
    """

    recall_thresholds: tuple[float, ...]
    brief_recalls: tuple[float, ...]
    longest: float
    mean_iou: bool
    highlights: bool
    recall_counts: tuple[int, ...] = (1,)
    ranking: Ranking | None = None

    @property
    def length_groups(self) -> dict[str, tuple[float, float]]:
        """Group of moments -> exclusive lower and inclusive upper end of their lengths in seconds."""
        return {"long": (30, self.longest), "middle": (10, 30), "short": (0, 10)}


_SINGLE_MOMENT = Protocol(
    (0.3, 0.35, 0.4, 0.45, *MAP_THRESHOLDS), (0.3, 0.5, 0.7), longest=inf, mean_iou=True, highlights=False
)

_QVHIGHLIGHTS = Protocol(MAP_THRESHOLDS, (0.5, 0.7), longest=150, mean_iou=False, highlights=True)

PROTOCOLS = {
    "qvhighlights": _QVHIGHLIGHTS,
    "charades": _SINGLE_MOMENT,
    "tacos": _SINGLE_MOMENT,  # an upper end of 150 s would leave out 143 of its test moments
    # With mIoU, so that the tables can use one training on the small world in place of any dataset.
    "world": replace(_QVHIGHLIGHTS, mean_iou=True),
    "activitynet": _SINGLE_MOMENT,
    # As UniVTG reports it.
    "ego4d_nlq": replace(_SINGLE_MOMENT, brief_recalls=(0.3, 0.5), recall_counts=(1, 5)),
    # As Lighthouse reports them: several moments of any length, no saliency.
    "clotho_moment": replace(_QVHIGHLIGHTS, longest=inf, highlights=False),
    "castella": replace(_QVHIGHLIGHTS, longest=inf, highlights=False),
    "tvsum": replace(_QVHIGHLIGHTS, ranking=TVSUM),
    "youtube_highlights": replace(_QVHIGHLIGHTS, ranking=YOUTUBE),
}


def evaluate(
    predictions: Sequence[Prediction], records: Sequence[Record], dataset: str | None = None
) -> dict[str, Any]:
    """Evaluate predictions against annotations of the same queries, in any order.

    Moments are short (0, 10] s, middle (10, 30] s or long (above; for QVHighlights up to 150 s). A query belongs
    to the group of each of its moments, and a group only has its own moments; predictions are not filtered.

    Args:
        predictions: One prediction per query.
        records: The labelled annotation records.
        dataset: Dataset whose metrics are computed, a key of ``PROTOCOLS``; None means the one that fits the labels
            (see ``dataset_of``).

    Returns:
        Percentages rounded to two decimals, None where a group has no queries. For QVHighlights the keys are those of
        the official result (with highlights only if the predictions have saliency); for the small world mIoU is
        added. For data sets without moments ``brief`` has mAP, also by domain (see ``domain_metrics``). For the others
        it has the recalls at the data set's IoU thresholds, mIoU if the data set reports it, and mAP, and each length
        group has its details.

    Raises:
        UserError: The queries of the two differ, labels are missing, or only some queries have saliency.
    """
    protocol = PROTOCOLS[dataset_of(records, dataset)]
    ordered = pair(predictions, records)
    if protocol.ranking is not None:
        ranked: dict[str, Any] = _round({"brief": _evaluate_ranking(ordered, records, protocol.ranking)})
        return ranked
    groups = _evaluate_groups(ordered, records, protocol)
    highlights = _evaluate_highlights(ordered, records) if protocol.highlights else {}
    result: dict[str, Any] = _round(
        {"brief": _summarise(groups, highlights, protocol), **highlights, **groups}
    )
    return result


def dataset_of(records: Sequence[Record], named: str | None) -> str:
    """Return the key of ``PROTOCOLS`` for the records: ``named`` if given, else the one that fits their labels.

    Raises:
        UserError: ``named`` is not a key of ``PROTOCOLS``.
    """
    if named is None:
        if any(record.clip_scores is not None for record in records):
            return "qvhighlights"
        raters = {record.clip_labels.shape[1] for record in records if record.clip_labels is not None}
        return "charades" if not raters else "youtube_highlights" if raters == {1} else "tvsum"
    if named not in PROTOCOLS:
        raise UserError(f"unknown dataset '{named}'; choose from {', '.join(PROTOCOLS)}")
    return named


def pair(predictions: Sequence[Prediction], records: Sequence[Record]) -> list[Prediction]:
    """Return the predictions in the order of the records.

    Raises:
        UserError: Predictions and records have different queries.
    """
    by_qid = {prediction.qid: prediction for prediction in predictions}
    if len(by_qid) != len(predictions):
        raise UserError(f"{len(predictions) - len(by_qid)} predictions repeat a qid; keep one per query")
    annotated = {record.qid for record in records}
    problems = {
        "annotated queries have no prediction": [r.qid for r in records if r.qid not in by_qid],
        "predictions have no annotation": [qid for qid in by_qid if qid not in annotated],
    }
    found = [
        f"{len(qids)} {problem} (qid {', '.join(map(repr, qids[:3]))})"
        for problem, qids in problems.items()
        if qids
    ]
    if found:
        raise UserError(f"{', '.join(found)}; both must hold the same queries")
    return [by_qid[record.qid] for record in records]


def true_moments(records: Sequence[Record]) -> list[NDArray[np.float64]]:
    """Return the (G, 2) moments of each record.

    Raises:
        UserError: A record has no labels.
    """
    moments = []
    for record in records:
        if record.windows is None:
            raise UserError(f"qid {record.qid!r} has no 'relevant_windows'; use annotations with labels")
        moments.append(record.windows)
    return moments


def restrict(
    windows: Sequence[NDArray[np.float64]], moments: Sequence[NDArray[np.float64]], member: NDArray[np.bool_]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Restrict to a group of moments like the official evaluation: to queries with such a moment, and those moments.

    Args:
        windows: (N, 3) predictions per query, all of which are kept.
        moments: (G, 2) true start and end per query.
        member: Bool per moment, over the concatenated moments of all queries: whether it is in the group.
    """
    owners = np.repeat(np.arange(len(moments)), np.array([len(own) for own in moments], dtype=np.int64))
    chosen, first = np.unique(owners[member], return_index=True)
    if not len(chosen):
        return [], []
    return [windows[query] for query in chosen], np.split(np.concatenate(moments)[member], first[1:])


def _evaluate_groups(
    predictions: Sequence[Prediction], records: Sequence[Record], protocol: Protocol
) -> dict[str, dict[str, Any]]:
    """Compute moment metrics of all queries and of each length group."""
    moments = true_moments(records)
    windows = [prediction.windows for prediction in predictions]
    recalls = protocol.recall_thresholds, protocol.recall_counts
    groups = {"full": moment_metrics(windows, moments, *recalls)}
    spans = np.concatenate([np.zeros((0, 2)), *moments])
    lengths = spans[:, 1] - spans[:, 0]
    for name, (shorter, longest) in protocol.length_groups.items():
        member = (lengths > shorter) & (lengths <= longest)
        groups[name] = moment_metrics(*restrict(windows, moments, member), *recalls)
    if not protocol.mean_iou:
        for metrics in groups.values():
            del metrics["MR-mIoU"]
    return groups


def _evaluate_ranking(
    predictions: Sequence[Prediction], records: Sequence[Record], ranking: Ranking
) -> dict[str, float]:
    """Compute mAP of ranked clips by domain."""
    labels, saliency = [], []
    for prediction, record in zip(predictions, records, strict=True):
        if record.clip_labels is None:
            raise UserError(f"qid {record.qid!r} has no 'label'; use annotations with a label per clip")
        if prediction.saliency is None:
            raise UserError(
                f"qid {record.qid!r} has no saliency; give 'pred_saliency_scores' for all queries"
            )
        labels.append(record.clip_labels)
        saliency.append(prediction.saliency)
    return domain_metrics(saliency, labels, [record.domain for record in records], ranking)


def _evaluate_highlights(
    predictions: Sequence[Prediction], records: Sequence[Record]
) -> dict[str, dict[str, float]]:
    """Compute highlight metrics; {} if no prediction has saliency or no record has labels."""
    saliency = _all_or_none({prediction.qid: prediction.saliency for prediction in predictions}, "saliency")
    labels = _all_or_none({record.qid: record.clip_scores for record in records}, "saliency labels")
    if labels and not saliency:
        log.warning("no prediction has saliency, so highlight metrics are left out")
    return highlight_metrics(saliency, labels) if labels and saliency else {}


def _all_or_none(values: dict[Qid, T | None], name: str) -> list[T]:
    """Return the values, or an empty list if all are None; it is an error if only some are None."""
    given = [value for value in values.values() if value is not None]
    if given and len(given) < len(values):
        missing = next(qid for qid, value in values.items() if value is None)
        raise UserError(
            f"qid {missing!r} has no {name}, but other queries do; give it for all queries or for none"
        )
    return given


def _summarise(
    groups: dict[str, dict[str, Any]], highlights: dict[str, dict[str, float]], protocol: Protocol
) -> dict[str, float | None]:
    """Select the few numbers that papers report."""
    full = groups["full"]
    brief = {
        f"MR-full-R{count}@{threshold}": full[f"MR-R{count}"][str(threshold)]
        for count in protocol.recall_counts
        for threshold in protocol.brief_recalls
    }
    if "MR-mIoU" in full:
        brief["MR-full-mIoU"] = full["MR-mIoU"]
    for name, metrics in groups.items():
        mean_ap = metrics["MR-mAP"]
        brief[f"MR-{name}-mAP"] = mean_ap["average"]
        if name == "full":
            brief |= {"MR-full-mAP@0.5": mean_ap["0.5"], "MR-full-mAP@0.75": mean_ap["0.75"]}
    for rating, metrics in highlights.items():
        brief |= {f"{rating}-{name.removeprefix('HL-')}": value for name, value in metrics.items()}
    return brief


def _round(tree: Any) -> Any:
    """Round every number to two decimals, like the official evaluation."""
    if isinstance(tree, dict):
        return {key: _round(value) for key, value in tree.items()}
    return None if tree is None else float(f"{tree:.2f}")
