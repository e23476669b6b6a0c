"""Notebooks run from top to bottom on a small demo, define no functions or classes, and store no outputs."""

import ast
import re
from pathlib import Path

import pytest

for library in ("av", "transformers", "matplotlib", "nbformat", "IPython"):
    pytest.importorskip(library)

import nbformat
from IPython.core.interactiveshell import InteractiveShell

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = ROOT / "docs/notebooks"
IMAGE = re.compile(r"^!\[[^\]]+\]\(\.\./(images/notebooks/[\w-]+\.png)\)$", flags=re.MULTILINE)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


assert len(NOTEBOOKS) >= 5


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_define_nothing_and_store_no_outputs(path: Path) -> None:
    cells = code_cells(path)
    assert any("from sdst" in cell.source for cell in cells)
    for cell in cells:
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, DEFINITIONS)]
        assert not cell.outputs
        assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pages_have_the_code_of_their_notebooks(path: Path) -> None:
    """After a change, ``make pictures`` on a clean commit renews the pages."""
    page = (PAGES / f"{path.stem}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)\n```$", page, flags=re.DOTALL | re.MULTILINE)
    assert blocks == [cell.source for cell in code_cells(path)]
    cells = nbformat.read(path, as_version=4).cells
    assert all(cell.source in page for cell in cells if cell.cell_type == "markdown")
    assert re.search(r"executed at commit `[0-9a-f]{10}` on a demo of commit `[0-9a-f]{10}`", page)


def test_pages_and_their_small_pictures_are_all_there_and_no_others() -> None:
    assert {page.stem for page in PAGES.iterdir()} == {path.stem for path in NOTEBOOKS}
    shown = [name for page in PAGES.iterdir() for name in IMAGE.findall(page.read_text(encoding="utf-8"))]
    pictures = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs/images/notebooks").iterdir()]
    assert sorted(shown) == sorted(pictures)
    assert all((ROOT / "docs" / name).stat().st_size <= 100_000 for name in shown)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_on_a_small_demo(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process, because a separate kernel would repeat all imports."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    monkeypatch.setenv("SDST_DEMO", str(demo))
    monkeypatch.chdir(path.parent)  # as Jupyter does
    shell = InteractiveShell()
    with pyplot.style.context("default"):
        pyplot.switch_backend("agg")
        for cell in code_cells(path):
            shell.run_cell(cell.source).raise_error()
    pyplot.close("all")
