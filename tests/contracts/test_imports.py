"""Imports point one way: foundations, then features, data, models, losses, metrics, then training and commands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sdst

PACKAGE = Path(sdst.__file__).parent
FOUNDATIONS = {"archives", "atomic", "errors", "jsonfiles", "progress", "spans", "terminal", "types"}
ALLOWED = {
    "archives": set(),
    "atomic": {"errors"},
    "errors": set(),
    "experiments": {"errors", "yamlfiles"},
    "jsonfiles": {"atomic", "errors", "types"},
    "progress": set(),
    "published": {"errors", "experiments", "statistics"},
    "spans": set(),
    "statistics": {"errors"},
    "terminal": set(),
    "types": set(),
    "yamlfiles": {"errors"},
    "models": FOUNDATIONS,
    "losses": FOUNDATIONS,
    "metrics": FOUNDATIONS,
    "features": FOUNDATIONS | {"data"},
    "data": FOUNDATIONS | {"features"},
    "world": FOUNDATIONS | {"features"},
}
"""What each part may import of the others; parts that are not listed are training and commands."""


def imported_parts(part: str) -> set[str]:
    """The parts of the package that a part imports, also lazily or for its annotations, without itself."""
    folder = PACKAGE / part
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]
    assert files
    names = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{part} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = {name.split(".")[1] for name in names if name.startswith("sdst.")}
    return parts & {path.stem for path in PACKAGE.iterdir()} - {part}


@pytest.mark.parametrize("part", ALLOWED)
def test_a_part_imports_only_what_lies_before_it(part):
    assert imported_parts(part) <= ALLOWED[part]


def test_the_entry_points_are_seen_to_import_what_they_train_with():
    assert {"losses", "metrics", "module"} <= imported_parts("fit")


@pytest.mark.parametrize(
    "module",
    [
        "sdst",
        "sdst.types",
        "sdst.metrics.commands",
        "sdst.cli",
        "sdst.reports.published",
        "sdst.analysis.commands",
    ],
)
def test_evaluation_and_published_numbers_need_no_torch(module):
    assert imported(module, "torch", "lightning", "hydra", "torchmetrics", "matplotlib") == "[]"


@pytest.mark.parametrize("module", ["train", "predict", "reports.commands", "show.commands", "sweep", "demo"])
def test_commands_do_not_wait_for_lightning_before_they_train(module):
    assert imported(f"sdst.{module}", "torch", "lightning") == "['torch']"


def imported(module: str, *heavy: str) -> str:
    """Which of the heavy packages the import of a module brings in."""
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()
