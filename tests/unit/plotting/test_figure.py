"""The canvas of all pictures: errors that users meet, and no pyplot state."""

import sys
from pathlib import Path

import pytest

from sdst.errors import UserError
from sdst.plotting.figure import literal, make_figure, save_figure


def test_missing_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(UserError, match=r"pip install 'sdst\[plot\]'"):
        make_figure(4, 3)


def test_unknown_format_and_missing_folder_are_user_errors(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = make_figure(2, 1)
    with pytest.raises(UserError, match=r"p\.mp3: cannot write the picture"):
        save_figure(figure, tmp_path / "p.mp3")
    with pytest.raises(UserError, match=r"p\.png: cannot be written"):
        save_figure(figure, tmp_path / "missing" / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_saving_leaves_the_picture_alone_in_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = make_figure(2, 1)
    figure.suptitle(literal("$1 or $2"))
    save_figure(figure, tmp_path / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
