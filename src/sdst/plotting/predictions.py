"""Pictures of predictions: predicted and true moments below the saliency curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdst.console.terminal import printable
from sdst.plotting.figure import PALETTE, literal, make_figure, save_figure
from sdst.plotting.fonts import use_fonts_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

    from sdst.types import Prediction, Record

Thumbnail = tuple[float, NDArray[np.uint8]]
"""Time in seconds, and RGB picture (height, width, 3)."""
THUMBNAIL_POINTS = 44
"""Height of a thumbnail in points."""
THUMBNAIL_ROW = 13.6
"""Width of a panel, as a multiple of the height of a thumbnail."""
SHOWN_MOMENTS = 3
TRUE_COLOUR, PREDICTED_COLOUR, SALIENCY_COLOUR = PALETTE[:3]


def plot_predictions(
    predictions: Sequence[Prediction],
    records: Sequence[Record],
    path: str | Path,
    clip_seconds: float,
    note: str = "",
    thumbnails: Sequence[Sequence[Thumbnail]] | None = None,
) -> None:
    """One panel per query: predicted and annotated saliency, true moments, and the best predicted moments.

    All panels have one saliency scale, from the lowest to the highest predicted score in the picture.

    Args:
        predictions: Predictions to show; a picture of more than a dozen is hard to read.
        records: Annotations of the same queries in the same order, labelled or not.
        path: Image file; its extension selects the format.
        clip_seconds: Length of a clip in seconds.
        note: Line above all panels.
        thumbnails: Pictures of each query's video, shown at their times in a row that is ``THUMBNAIL_ROW`` wide.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    panel_height = 2.6 if thumbnails is None else 3.4
    figure = make_figure(10, panel_height * len(predictions) + 0.6)
    panels = figure.subplots(len(predictions), squeeze=False)[:, 0]
    levels = [one.saliency for one in predictions if one.saliency is not None]
    scale = (min(level.min() for level in levels), max(level.max() for level in levels)) if levels else None
    labels = []
    for axes, prediction, record in zip(panels, predictions, records, strict=True):
        labels.append(_draw(axes, prediction, record, clip_seconds, scale))
    for axes, pictures in zip(panels, thumbnails or (), strict=False):
        _draw_thumbnails(axes, pictures)
    panels[-1].set_xlabel("time [s]")
    labelled = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in reversed(labelled)}  # keeps the first handle of each label
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8
    )
    if note:
        figure.suptitle(note)
    use_fonts_for(figure)
    figure.draw_without_rendering()  # the layout decides how wide a panel is
    for of_panel, record in zip(labels, records, strict=True):
        for label, start, end in of_panel:
            _place_score(label, start, end, record.duration)
    save_figure(figure, path)


def _draw(
    axes: Axes, prediction: Prediction, record: Record, clip_seconds: float, scale: tuple[float, float] | None
) -> list[tuple[Annotation, float, float]]:
    """Draw a panel; ``scale`` is the lowest and highest saliency of the picture.

    Returns:
        Score label, start and end of each predicted moment.
    """
    title = printable(f"{prediction.vid}: “{prediction.query}”")
    axes.set_title(literal(title), fontsize=10, loc="left", wrap=True)
    axes.set_xlim(0, record.duration)
    axes.set_ylim(-0.72, 1.05)
    axes.set_yticks([])
    axes.set_ylabel("saliency", y=0.7)
    if scale is not None and prediction.saliency is not None:
        low, high = scale
        heights = np.full(len(prediction.saliency), 0.5)
        if high > low:
            heights = (prediction.saliency - low) / (high - low)
        ticks = {0: low, 1: high} if high > low else {0.5: low}
        axes.set_yticks(list(ticks), [f"{score:.3g}" for score in ticks.values()])
        _curve(axes, heights, clip_seconds, "predicted saliency (left axis)", "-")
    if record.clip_scores is not None:
        _curve(axes, record.clip_scores.mean(axis=1) / 4, 2.0, "annotators' mean saliency (right axis)", ":")
        axes.secondary_yaxis("right").set_yticks([0, 1], ["0", "4"])
    windows = record.windows if record.windows is not None else np.zeros((0, 2))
    for start, end in windows:
        axes.axvspan(start, end, color=TRUE_COLOUR, alpha=0.18, lw=0)
        axes.barh(-0.12, end - start, left=start, height=0.16, color=TRUE_COLOUR, label="true moment")
    labels = []
    for index, (start, end, score) in enumerate(prediction.windows[:SHOWN_MOMENTS].tolist()):
        height = -0.28 - 0.16 * index
        axes.barh(
            height,
            end - start,
            left=start,
            height=0.13,
            color=PREDICTED_COLOUR,
            alpha=1 - 0.3 * index,
            label=f"best {SHOWN_MOMENTS} predicted moments, score",
        )
        label = axes.annotate(f" {score:.2f} ", (end, height), va="center", fontsize=7, annotation_clip=True)
        label.set_in_layout(False)
        labels.append((label, start, end))
    return labels


def _place_score(label: Annotation, start: float, end: float, duration: float) -> None:
    """Move a moment's score label so that it stays inside the panel.

    It stands to the right of the moment, or to its left near the right border, or inside it if neither fits.
    """
    assert label.axes is not None
    needed = label.get_window_extent().width / label.axes.get_window_extent().width * duration
    if end + needed > duration:
        label.set_horizontalalignment("right")
        label.set_x(start if start >= needed else end)


def _draw_thumbnails(axes: Axes, pictures: Sequence[Thumbnail]) -> None:
    """Draw pictures at their times at the bottom of the panel; each keeps its aspect ratio."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axes.set_ylim(-1.5, 1.05)
    for time, picture in pictures:
        image = OffsetImage(picture, zoom=THUMBNAIL_POINTS / picture.shape[0])
        box = AnnotationBbox(image, (time, -1.12), frameon=False, pad=0)
        box.set_in_layout(False)
        axes.add_artist(box)


def _curve(axes: Axes, values: np.ndarray, step: float, label: str, style: str) -> None:
    times = np.arange(len(values) + 1) * step
    values = np.append(values, values[-1])  # otherwise the last clip would have no line
    axes.step(times, values, style, where="post", color=SALIENCY_COLOUR, lw=1.2, label=label)
