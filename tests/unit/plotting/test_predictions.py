"""Pictures of predictions: where labels stand, and the saliency scale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdst.plotting.predictions import plot_predictions
from sdst.types import Prediction, Record

figure_module = pytest.importorskip("matplotlib.figure")

NO_WINDOWS = np.zeros((0, 3))
CURVE = "predicted saliency (left axis)"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn instead of written."""
    found: list[Any] = []
    monkeypatch.setattr(
        figure_module.Figure, "savefig", lambda figure, path, **_: (found.append(figure), path.touch())
    )
    return found


def heights(axes: Any) -> list[float]:
    """The clips' heights of the curve of predicted saliency."""
    (curve,) = (line for line in axes.lines if line.get_label() == CURVE)
    return curve.get_ydata()[:-1].tolist()


def ticks(axes: Any) -> dict[float, str]:
    return {
        height: label.get_text()
        for height, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    }


@pytest.mark.parametrize("score", [0.87, -3.25, 123.456])
@pytest.mark.parametrize("start", [0.0, 0.5, 40.0, 90.0, 97.0, 99.5])
@pytest.mark.parametrize("end", [95.5, 96.4, 98.0, 100.0])
def test_score_labels_stay_inside_the_panel(
    tmp_path: Path, figures: list[Any], start: float, end: float, score: float
) -> None:
    windows = np.array([[min(start, end - 0.5), end, score]])
    prediction = Prediction("q", "v", "a dog", windows, np.linspace(0, 1, 50))
    plot_predictions([prediction], [Record("q", "v", "a dog", 100.0)], tmp_path / "p.png", 2.0)
    (axes,) = figures[0].axes
    figures[0].canvas.draw()
    (label,) = (text for text in axes.texts if text.get_text().strip() == f"{score:.2f}")
    box, panel = label.get_window_extent(), axes.get_window_extent()
    assert panel.x0 <= box.x0 < box.x1 <= panel.x1


def test_panels_share_a_scale_that_shows_the_scores(tmp_path: Path, figures: list[Any]) -> None:
    sure = Prediction(1, "v", "a dog", NO_WINDOWS, np.array([-0.25, 0.75]))
    unsure = Prediction(2, "v", "a cat", NO_WINDOWS, np.array([0.0, 0.25]))
    records = [Record(1, "v", "a dog", 4.0), Record(2, "v", "a cat", 4.0)]
    plot_predictions([sure, unsure], records, tmp_path / "p.png", 2.0)
    first, second = figures[0].axes
    assert ticks(first) == ticks(second) == {0: "-0.25", 1: "0.75"}
    assert heights(first) == [0, 1]
    assert heights(second) == [0.25, 0.5]


def test_a_video_of_one_clip_shows_its_score(tmp_path: Path, figures: list[Any]) -> None:
    prediction = Prediction(1, "v", "a dog", NO_WINDOWS, np.array([0.12]))
    plot_predictions([prediction], [Record(1, "v", "a dog", 2.0)], tmp_path / "p.png", 2.0)
    (axes,) = figures[0].axes
    assert ticks(axes) == {0.5: "0.12"}
    assert heights(axes) == [0.5]


def test_without_predicted_saliency_only_the_annotators_have_an_axis(
    tmp_path: Path, figures: list[Any]
) -> None:
    record = Record(1, "v", "a dog", 4.0, np.array([[0.0, 2.0]]), np.array([[4, 3, 4], [0, 0, 0]]))
    plot_predictions([Prediction(1, "v", "a dog", NO_WINDOWS)], [record], tmp_path / "p.png", 2.0)
    (axes,) = figures[0].axes
    assert ticks(axes) == {}
    (right,) = axes.child_axes
    assert ticks(right) == {0: "0", 1: "4"}
