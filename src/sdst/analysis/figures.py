"""Pictures of an analysis, one per section; each shows the number n of queries or moments behind it."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from sdst.plotting.figure import PALETTE, literal, make_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sdst.analysis.analysis import Analysis
    from sdst.analysis.groups import GroupScores

SHOWN = {"R1@0.5": "r1_at_50", "R1@0.7": "r1_at_70", "mAP": "mean_ap"}
"""Label of a metric -> attribute of ``GroupScores``."""
GROUPS_LEGEND = (
    "bars: true moments of the group; dotted lines: all queries with all their true moments\n"
    "Upper panels: predictions of a query's moments in other groups count as wrong, so all bars can lie below the "
    "lines."
)


def draw(analysis: Analysis, title: str, folder: Path) -> dict[str, str]:
    """Write a picture for each section of the text.

    Returns:
        Section -> name of its file in the folder.

    Raises:
        UserError: matplotlib is not installed, or a file cannot be written.
    """
    files = {}
    for section, (height, draw_section) in _SECTIONS.items():
        figure = make_figure(9, height)
        draw_section(analysis, figure)
        figure.suptitle(literal(title), fontsize=10)
        path = folder / f"{section}.png"
        save_figure(figure, path)
        files[section] = path.name
    return files


def _draw_groups(analysis: Analysis, figure: Figure) -> None:
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, (grouping, groups) in zip(panels, analysis.groups.items(), strict=True):
        shown = {name: found for name, found in groups.items() if found is not None}
        _bars(axes, shown)
        for label, colour in zip(SHOWN, PALETTE, strict=False):
            overall = getattr(analysis.overall, SHOWN[label])
            axes.axhline(overall, color=colour, lw=0.8, ls=":")
        axes.set_title(grouping, fontsize=9)
        axes.set_ylabel("%")
    _legend(figure, GROUPS_LEGEND)


def _draw_kinds(analysis: Analysis, figure: Figure) -> None:
    axes = figure.subplots()
    total = analysis.overall.num_queries
    shares = [100 * count / total for count in analysis.kinds.values()]
    bars = axes.barh(list(analysis.kinds), shares, color=PALETTE[0])
    axes.bar_label(bars, [f" {n} ({s:.1f} %)" for n, s in zip(analysis.kinds.values(), shares, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * max(shares))
    axes.set_xlabel(f"% of {total} queries")


def _draw_calibration(analysis: Analysis, figure: Figure) -> None:
    panels = figure.subplots(1, len(analysis.calibration), sharey=True)
    for axes, (name, found) in zip(panels, analysis.calibration.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.5", lw=0.8, ls=":")
        summary = "omitted: scores are not probabilities"
        if found is not None:
            summary = f"n = {found.num_moments}, expected calibration error {found.error:.3f}"
            bins = [part for part in found.bins if part.num_moments]
            points = [(part.mean_score, part.share_right) for part in bins]
            axes.plot(*zip(*points, strict=True), "o-", color=PALETTE[0])
            for part, point in zip(bins, points, strict=True):
                axes.annotate(
                    f"{part.num_moments}",
                    point,
                    (4, -10),
                    textcoords="offset points",
                    fontsize=7,
                    color="0.3",
                )
        axes.set_title(f"{name}\n{summary}", fontsize=9)
        axes.set_xlabel("score")
        axes.set_ylabel("share correct (IoU ≥ 0.5)")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)


def _draw_ceilings(analysis: Analysis, figure: Figure) -> None:
    axes = figure.subplots()
    _bars(axes, {fill(ceiling.oracle, 10): ceiling.scores for ceiling in analysis.ceilings})
    axes.set_ylabel("%")
    _legend(figure, "scores of the oracle")


def _bars(axes: Axes, groups: Mapping[str, GroupScores]) -> None:
    """Draw one bar per metric for each group; a group's label includes its number of queries."""
    places = np.arange(len(groups))
    for position, (attribute, colour) in enumerate(zip(SHOWN.values(), PALETTE, strict=False)):
        heights = [getattr(scores, attribute) for scores in groups.values()]
        axes.bar(places + 0.25 * (position - 1), heights, 0.22, color=colour)
    names = [f"{name}\nn = {scores.num_queries}" for name, scores in groups.items()]
    axes.set_xticks(places, names, fontsize=7)
    axes.set_ylim(0, 100)


def _legend(figure: Figure, title: str) -> None:
    """Add one legend for all panels: a metric has the same colour everywhere."""
    from matplotlib.patches import Patch

    handles: Sequence[Patch] = [
        Patch(color=colour, label=label) for label, colour in zip(SHOWN, PALETTE, strict=False)
    ]
    figure.legend(
        handles=handles,
        title=title,
        loc="outside lower center",
        ncols=len(SHOWN),
        fontsize=8,
        title_fontsize=8,
    )


_SECTIONS: dict[str, tuple[float, Callable[[Analysis, Figure], None]]] = {
    "groups": (6.0, _draw_groups),
    "kinds": (3.0, _draw_kinds),
    "calibration": (4.2, _draw_calibration),
    "ceilings": (3.6, _draw_ceilings),
}
"""Section -> height of its picture in inches, and the function that draws it."""
