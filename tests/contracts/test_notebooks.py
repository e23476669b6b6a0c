"""Notebooks run from top to bottom on a small demo, define no functions or classes, and store no outputs."""

import ast
from pathlib import Path

import pytest

for library in ("av", "transformers", "matplotlib", "nbformat", "IPython"):
    pytest.importorskip(library)

import nbformat
from IPython.core.interactiveshell import InteractiveShell

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
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
