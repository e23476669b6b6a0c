"""Letters that matplotlib's font lacks: from an installed font, or one line instead of boxes."""

import warnings
from pathlib import Path

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from sdst.plotting import fonts
from sdst.plotting.figure import make_figure, save_figure
from sdst.plotting.predictions import plot_predictions
from sdst.types import Prediction, Record

QUERY = "狗 runs"


@pytest.fixture
def font(tmp_path: Path) -> Path:
    """A font with the one letter of the query, drawn as a full square."""
    builders = pytest.importorskip("fontTools.fontBuilder")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")

    def square(size: int) -> object:
        pen = pens.TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, size), (size, size), (size, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    builder = builders.FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "dog"])
    builder.setupCharacterMap({ord("狗"): "dog"})
    builder.setupGlyf({".notdef": square(10), "dog": square(900)})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "dog": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "One Dog", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "fonts/OneDog.ttf"
    path.parent.mkdir()
    builder.save(path)
    return path


def draw(path: Path) -> None:
    prediction = Prediction(1, "v", QUERY, np.array([[0, 2, 0.5]]), np.zeros(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_predictions([prediction], [Record(1, "v", QUERY, 4.0)], path, 2.0)


def test_a_letter_comes_from_an_installed_font(
    tmp_path: Path, font: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: ["/no/font.ttf", str(font)])
    draw(tmp_path / "p.png")
    assert not caplog.records
    figure = make_figure(1, 1)
    figure.text(0.1, 0.1, "狗狗狗", fontsize=30)
    save_figure(figure, tmp_path / "dogs.png")
    dark = matplotlib.image.imread(tmp_path / "dogs.png")[..., 0] < 0.5
    assert dark.mean() > 0.15  # full squares, where the sign for a lacking letter is a frame


def test_without_such_a_font_one_line_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    draw(tmp_path / "p.png")
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "no installed font has 1 of the letters in this picture, such as 狗;"
    )


def test_other_texts_keep_their_font() -> None:
    figure = make_figure(1, 1)
    text = figure.text(0, 0, "Größe €")
    before = text.get_fontfamily()
    fonts.use_fonts_for(figure)
    assert (text.get_text(), text.get_fontfamily()) == ("Größe €", before)
