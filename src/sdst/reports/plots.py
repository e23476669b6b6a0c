"""Pictures for the reports that have one: learning curves (Tab. B, H), Tab. K (Fig. 3), Tab. L, Fig. 4 and A."""

from __future__ import annotations

import logging
import re
from itertools import cycle, product
from typing import TYPE_CHECKING

import numpy as np

from sdst.config.words import described
from sdst.errors import UserError
from sdst.plotting.figure import PALETTE, literal, make_figure, save_figure
from sdst.reports.render import shown_label
from sdst.sweeps.tables import number
from sdst.training.curves import selected_curve
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from sdst.reports.results import Results, Run
    from sdst.runs.groups import Group

logger = logging.getLogger(__name__)

CURVE_METRIC = "MR-full-mAP"
STYLES = ("-", "--", ":")
OWN_RANGES = (
    "The panels have different mAP ranges: in a shared range, the paper's two curves would hide each other."
)


def plot(results: Results, path: Path) -> bool:
    """Draw the picture of an experiment, if it has one.

    Returns:
        Whether a picture was drawn.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    draw = _DRAWN.get(results.experiment.name)
    if draw is None:
        return False
    figure = make_figure(9, 4)
    draw(results, figure)
    _add_legend(figure)
    simulated = any(run.metrics.get("simulated") for run in results.runs)
    title = f"{results.experiment.title}, {results.scale} scale{', SIMULATED features' * simulated}"
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)
    return True


def mean_offsets(run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean and standard deviation of a run's offsets over the split that selected its checkpoint (Fig. 4).

    Returns:
        Both of shape (K, H), in half widths of the moment, over all moment queries of all samples; None if the
        attention has no offsets.

    Raises:
        UserError: The run's checkpoint is missing, or features or annotations are not at the paths in config.yaml.
    """
    import torch

    from sdst.config.build import build
    from sdst.config.schema import Levels
    from sdst.training import checkpoint

    files = RunFolder(run.folder)
    config = files.config()
    model, _, _ = checkpoint.load(files.best)
    data = build(config.data, levels=Levels(**config.levels), seed=config.seed)
    found = []
    with torch.inference_mode():
        for batch in data.loader(config.select.split):
            inputs = batch.inputs()
            offsets = model(*inputs, with_offsets=True).offsets
            if offsets is None:
                return None
            found.append(offsets.movedim(2, 1).flatten(0, 1).double().numpy())  # (B M, K, H)
    every = np.concatenate(found)
    return every.mean(axis=0), every.std(axis=0)


def plot_groups(groups: Sequence[Group], path: Path) -> bool:
    """Draw the learning curves of runs that differ: one per group, its mean over the finished runs.

    Returns:
        Whether a picture was drawn, because a run has a learning curve.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    curves: dict[str, list[list[float] | None]] = {}
    metrics = []
    for group in groups:
        label = literal(described({key: value for key, value in group.words.items() if value})) or "all runs"
        for row in group.runs:
            if row.metrics is not None and row.folder is not None:
                curve = selected_curve(row.folder, RunFolder(row.folder).metrics())
                curves.setdefault(label, []).append(curve)
                metrics.append(f"{row.split} {row.metric}")
    if not any(curve for found in curves.values() for curve in found):
        return False
    figure = make_figure(9, 4)
    _draw_curves(figure.subplots(), curves, metrics)
    _add_legend(figure)
    simulated = any(group.features for group in groups)
    figure.suptitle(f"Learning curves{', SIMULATED features' * simulated}", fontsize=10)
    save_figure(figure, path)
    return True


def learning_curve(curves: Sequence[list[float] | None]) -> tuple[NDArray[np.float64], int]:
    """Mean of the learning curves of runs, for each epoch that all of them have.

    Returns:
        (epochs,) mean, empty without any curve, and the number of curves that are not None.
    """
    values = [curve for curve in curves if curve is not None]
    if not values:
        return np.zeros(0), 0
    shared = min(map(len, values))
    return np.mean([curve[:shared] for curve in values], axis=0), len(values)


def _draw_levels(results: Results, figure: Figure) -> None:
    """Draw one curve over K for each source of the levels, ours next to the paper's."""
    ours, paper = figure.subplots(1, 2)
    index = next(i for i, column in enumerate(results.experiment.columns) if column.key == CURVE_METRIC)
    for colour, source in zip(PALETTE, ("intermediate", "last"), strict=False):
        rows = []
        for row in results.rows:
            match = re.fullmatch(rf"K = (\d+), {source}", row.row.label)
            if match is not None:
                rows.append((int(match[1]), row.cells[index]))
        done = [(k, cell.mean, cell.std or 0.0) for k, cell in rows if cell.mean is not None]
        if done:
            ks, means, stds = zip(*done, strict=True)
            ours.errorbar(ks, means, stds, fmt="o-", color=colour, capsize=3, label=source)
        printed = [(k, value) for k, cell in rows if (value := number(cell.paper)) is not None]
        if printed:
            paper.plot(*zip(*printed, strict=True), "s--", color=colour, label=source)
    figure.supxlabel(OWN_RANGES, fontsize=8)
    for axes, title in ((ours, "ours (mean ± std)"), (paper, "paper")):
        axes.xaxis.get_major_locator().set_params(integer=True)
        _label(axes, title, "levels K", "mAP")


def _draw_lengths(results: Results, figure: Figure) -> None:
    """Draw bars by length of the moments, one group per column."""
    columns = results.experiment.columns
    for axes, title, is_ours in zip(
        figure.subplots(1, 2, sharey=True), ("ours (mean ± std)", "paper"), (True, False), strict=True
    ):
        for position, row in enumerate(results.rows):
            numbers = [cell.mean if is_ours else number(cell.paper) for cell in row.cells]
            heights = [np.nan if value is None else value for value in numbers]
            errors = [cell.std or 0.0 for cell in row.cells] if is_ours else None
            places = np.arange(len(columns)) + 0.25 * position
            colour = PALETTE[position % len(PALETTE)]
            axes.bar(places, heights, 0.22, yerr=errors, color=colour, label=shown_label(row.row))
        groups = [column.header.removeprefix("mAP").strip() or "all" for column in columns]
        axes.set_xticks(np.arange(len(columns)) + 0.25, groups)
        _label(axes, title, "length of moments", "mAP")


def _draw_learning(results: Results, figure: Figure) -> None:
    """Draw the learning curve of each row."""
    curves = {shown_label(row.row): [run.curve() for run in row.runs] for row in results.rows}
    chosen = [run.metrics["selected"] for run in results.runs if run.status == "finished"]
    _draw_curves(figure.subplots(), curves, (f"{each['split']} {each['metric']}" for each in chosen))


def _draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[list[float] | None]], metrics: Iterable[str]
) -> None:
    """Draw the mean learning curve of each label's runs; ``metrics`` are those that selected the checkpoints."""
    for (style, colour), (label, found) in zip(cycle(product(STYLES, PALETTE)), curves.items(), strict=False):
        values, seeds = learning_curve(found)
        if seeds:
            label = f"{label}, {seeds} seeds" if seeds > 1 else label
            axes.plot(np.arange(1, len(values) + 1), values, style, color=colour, label=label)
    axes.locator_params(axis="x", integer=True)
    _label(axes, "after each epoch, mean over the seeds", "epoch", ", ".join(dict.fromkeys(metrics)))


def _draw_offsets(results: Results, figure: Figure) -> None:
    """Draw the mean offset of each head at every level, for the first finished seed of each row."""
    panels = figure.subplots(1, len(results.rows), sharey=True, squeeze=False)[0]
    for axes, row in zip(panels, results.rows, strict=True):
        run = next((run for run in row.runs if run.status == "finished"), None)
        state = "not run" if run is None else f"seed {run.seed}"
        try:
            offsets = None if run is None else mean_offsets(run)
        except UserError as error:  # the tables need only metrics.json, so they still show this run
            logger.warning("%s: row '%s' is not drawn: %s", results.experiment.name, row.row.label, error)
            offsets, state = None, "not drawn"
        if offsets is not None:
            mean, std = offsets
            levels = np.arange(1, len(mean) + 1)
            for head in range(mean.shape[1]):
                (line,) = axes.plot(levels, mean[:, head], "o-", label=f"head {head + 1}")
                low, high = mean[:, head] - std[:, head], mean[:, head] + std[:, head]
                axes.fill_between(levels, low, high, color=line.get_color(), alpha=0.12, lw=0)
            axes.set_xticks(levels)
        for boundary in (-1, 1):
            axes.axhline(boundary, color="0.5", lw=0.8, ls=":")
        _label(axes, f"{shown_label(row.row)}, {state}", "refinement level", "offset [half widths]")


def _add_legend(figure: Figure) -> None:
    """Add one legend for all panels, because a label has the same colour in each."""
    labelled = [axes.get_legend_handles_labels() for axes in figure.axes]
    legend = {
        label: handle for handles, labels in labelled for handle, label in zip(handles, labels, strict=True)
    }
    if legend:
        figure.legend(legend.values(), legend.keys(), loc="outside right upper", fontsize=8)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


_DRAWN: dict[str, Callable[[Results, Figure], None]] = {
    "tableB": _draw_learning,
    "tableH": _draw_learning,
    "tableK": _draw_levels,
    "tableL": _draw_lengths,
    "figure4": _draw_offsets,
}
