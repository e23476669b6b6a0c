"""An analysis as Markdown: a section with tables and a picture for each question."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING

from sdst.analysis.ceilings import MAX_ANSWERS
from sdst.metrics.error_kinds import KINDS
from sdst.metrics.evaluation import PROTOCOLS
from sdst.metrics.moment import MAX_PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdst.analysis.analysis import Analysis
    from sdst.analysis.calibration import Calibration
    from sdst.analysis.groups import GroupScores

SCORE_COLUMNS = ("queries", "moments", "R1@0.5", "R1@0.7", "mIoU", "mAP")
NONE = "–"


def markdown(analysis: Analysis, title: str, figures: Mapping[str, str]) -> str:
    """The complete Markdown text.

    Args:
        analysis: Analysis to describe.
        title: Title without markup.
        figures: Section -> picture file, relative to the text.
    """
    sections = {
        "groups": ("Results by group", _groups(analysis)),
        "kinds": ("Error types", _kinds(analysis)),
        "calibration": ("Calibration", _calibration(analysis)),
        "ceilings": ("Oracle upper bounds", _ceilings(analysis)),
    }
    lines = [f"# {title}", ""]
    for section, (heading, content) in sections.items():
        lines += [f"## {heading}", "", *content, ""]
        if section in figures:
            lines += [f"![{heading}]({figures[section]})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _groups(analysis: Analysis) -> list[str]:
    lengths = (
        f"{name} over {low:g}" + (f" up to {high:g}" if isfinite(high) else "")
        for name, (low, high) in PROTOCOLS[analysis.dataset].length_groups.items()
    )
    lines = [
        "In percent. A query belongs to the group of each of its moments; there it keeps only the true moments of that "
        "group, but all predictions, as in the official evaluation by length "
        f"(in seconds: {', '.join(lengths)}). Predictions of a query's other moments count as wrong there, so all "
        'groups by length or position can lie below "all".',
    ]
    for grouping, groups in analysis.groups.items():
        shown = {"all": analysis.overall} | {name: found for name, found in groups.items() if found}
        rows = [[name, *_cells(found)] for name, found in shown.items()]
        lines += ["", *_table([grouping, *SCORE_COLUMNS], rows)]
        if empty := [name for name, found in groups.items() if found is None]:
            lines += ["", f"Omitted (no queries): {', '.join(empty)}."]
    return lines


def _kinds(analysis: Analysis) -> list[str]:
    total = analysis.overall.num_queries
    rows = [[kind, str(n), f"{100 * n / total:.1f}", KINDS[kind]] for kind, n in analysis.kinds.items()]
    return [
        f"{total} {'query' if total == 1 else 'queries'}. Each query with a prediction has exactly one of the first "
        "four kinds; the other kinds can occur in addition.",
        "",
        *_table(["kind", "queries", "%", "meaning"], rows),
    ]


def _calibration(analysis: Analysis) -> list[str]:
    lines = [
        "Scores are calibrated if a score of p means that a share p of the moments with that score is correct (IoU ≥ "
        "0.5 with a true moment). The expected calibration error is the distance between mean score and share correct, "
        "averaged over ten bins of the score, weighted by their size.",
    ]
    for name, found in analysis.calibration.items():
        if found is None:
            lines += [
                "",
                f"{name}: omitted, because nothing is predicted or scores are not probabilities (outside 0 to 1).",
            ]
        else:
            lines += ["", *_reliability(name, found)]
    return lines


def _reliability(name: str, found: Calibration) -> list[str]:
    rows = [
        [f"{b.low:g} to {b.high:g}", str(b.num_moments), f"{b.mean_score:.3f}", f"{b.share_right:.3f}"]
        for b in found.bins
        if b.num_moments
    ]
    overall = ["all", str(found.num_moments), f"{found.mean_score:.3f}", f"{found.share_right:.3f}"]
    return [
        *_table([f"score of the {name}", "moments", "mean score", "share correct"], [*rows, overall]),
        "",
        f"Expected calibration error {found.error:.3f} (n = {found.num_moments}).",
    ]


def _ceilings(analysis: Analysis) -> list[str]:
    first = analysis.ceilings[0]
    header = ["answers of the oracle", *SCORE_COLUMNS, *(f"mAP {group}" for group in first.mean_ap)]
    rows = [
        [ceiling.oracle, *_cells(ceiling.scores), *map(_percent, ceiling.mean_ap.values())]
        for ceiling in analysis.ceilings
    ]
    lines = [
        f"Scores of predictors that know the annotations. Only {MAX_PREDICTIONS} windows of a query count, and for the "
        "mAP of a length group, moments of other lengths count as wrong. Rounded windows correspond to that value of "
        f"`decode.round_to`; limits of {', '.join(map(str, MAX_ANSWERS))} moments per query correspond to a model that "
        "predicts, or was trained on, at most that many.",
        "",
        *_table(header, rows),
    ]
    if analysis.highlight_ceilings:
        ratings = [
            [rating, *map(_percent, metrics.values())]
            for rating, metrics in analysis.highlight_ceilings.items()
        ]
        lines += [
            "",
            "Highlights, if the saliency of a clip is the mean of its annotators' scores (n = "
            f"{first.scores.num_queries}). Annotators disagree, and some marked no highlights:",
            "",
            *_table(["rating", "mAP", "Hit@1"], ratings),
        ]
    return lines


def _cells(scores: GroupScores) -> list[str]:
    percents = (scores.r1_at_50, scores.r1_at_70, scores.mean_iou, scores.mean_ap)
    return [str(scores.num_queries), str(scores.num_moments), *map(_percent, percents)]


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
