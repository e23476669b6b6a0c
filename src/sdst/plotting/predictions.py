"""Pictures of predictions: predicted and true moments below the saliency curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdst.console.terminal import printable
from sdst.plotting.figure import PALETTE, literal, make_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from sdst.types import Prediction, Record

Thumbnail = tuple[float, NDArray[np.uint8]]
"""Time in seconds, and RGB picture (height, width, 3)."""
THUMBNAIL_POINTS = 44
"""Height of a thumbnail in points."""
THUMBNAIL_ROW = 14.5
"""Width of a panel, as a multiple of the height of a thumbnail."""
SCORE_SHARE = 0.035
"""Part of a panel's width that a score label needs."""
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
    for axes, prediction, record in zip(panels, predictions, records, strict=True):
        _draw(axes, prediction, record, clip_seconds)
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
    save_figure(figure, path)


def _draw(axes: Axes, prediction: Prediction, record: Record, clip_seconds: float) -> None:
    title = printable(f"{prediction.vid}: “{prediction.query}”")
    axes.set_title(literal(title), fontsize=10, loc="left", wrap=True)
    axes.set_xlim(0, record.duration)
    axes.set_ylim(-0.72, 1.05)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
    axes.set_ylabel("saliency", y=0.7)
    if prediction.saliency is not None:
        _curve(axes, _unit_range(prediction.saliency), clip_seconds, "predicted saliency (scaled)", "-")
    if record.clip_scores is not None:
        _curve(axes, record.clip_scores.mean(axis=1) / 4, 2.0, "annotators' mean saliency / 4", ":")
    windows = record.windows if record.windows is not None else np.zeros((0, 2))
    for start, end in windows:
        axes.axvspan(start, end, color=TRUE_COLOUR, alpha=0.18, lw=0)
        axes.barh(-0.12, end - start, left=start, height=0.16, color=TRUE_COLOUR, label="true moment")
    for index, (start, end, score) in enumerate(prediction.windows[:SHOWN_MOMENTS]):
        height = -0.28 - 0.16 * index
        label = f"best {SHOWN_MOMENTS} predicted moments, score"
        axes.barh(
            height,
            end - start,
            left=start,
            height=0.13,
            color=PREDICTED_COLOUR,
            alpha=1 - 0.3 * index,
            label=label,
        )
        time, side = _score_place(start, end, record.duration)
        axes.annotate(
            f" {score:.2f} ", (time, height), ha=side, va="center", fontsize=7, annotation_clip=True
        )


def _score_place(start: float, end: float, duration: float) -> tuple[float, str]:
    """Time and horizontal alignment of a moment's score label, so that it stays inside the panel.

    The label stands to the right of the moment, or to its left near the right border, or inside it if neither fits.
    """
    needed = SCORE_SHARE * duration
    if end + needed <= duration:
        return end, "left"
    return (start, "right") if start >= needed else (end, "right")


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


def _unit_range(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
