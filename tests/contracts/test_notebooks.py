"""Notebooks run from top to bottom on a small demo, only import what they use, and are stored without outputs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

for library in ("av", "transformers", "matplotlib", "nbmake"):
    pytest.importorskip(library)

import nbformat

from sdst.cli import main

NOTEBOOKS = sorted(Path("notebooks").glob("*.ipynb"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_and_never_defines_and_has_no_outputs(path: Path) -> None:
    cells = code_cells(path)
    assert any("from sdst" in cell.source for cell in cells)
    for cell in cells:
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, DEFINITIONS)]
        assert not cell.outputs
        assert cell.execution_count is None


def test_all_notebooks_run_on_a_small_demo(tmp_path: Path) -> None:
    assert len(NOTEBOOKS) >= 4
    demo = tmp_path / "demo"
    assert main(["demo", "--out", str(demo), "--videos", "6", "3", "2", "--epochs", "2"]) == 0
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", "-n", "0"]
    environment = os.environ | {"SDST_DEMO": str(demo), "MPLBACKEND": "agg"}
    done = subprocess.run(
        [*command, *map(str, NOTEBOOKS)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(NOTEBOOKS)} passed" in done.stdout
