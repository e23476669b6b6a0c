"""Imports go down the layers and never in a cycle; light commands import no heavy package."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import sdst
from sdst.cli import COMMANDS

PACKAGE = Path(sdst.__file__).parent
FLOORS = [  # the top floor first
    "serve world",
    "show reports __init__ __main__",
    "inference sweeps bench analysis sharing",
    "runs",
    "training",
    "features baselines metrics",
    "data models",
    "config plotting cli",
    "untrusted losses files console",
    "types spans errors version",
]
"""A package or module of the root may import from lower floors only. ``conf`` holds YAML files and no code."""
HEIGHT = {part: height for height, floor in enumerate(reversed(FLOORS)) for part in floor.split()}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def part_of(module: str) -> str:
    """The package or module of the root that holds a module; ``__init__`` for ``sdst`` itself."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(module: str) -> Iterator[tuple[str, int]]:
    """``sdst`` modules that a module imports, also lazily or for annotations, with line numbers."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[module]}:{node.lineno} imports relatively"
            names = [
                found if (found := f"{node.module}.{alias.name}") in MODULES else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        for name in dict.fromkeys(names):
            if name.partition(".")[0] == "sdst":
                assert name in MODULES, (
                    f"{MODULES[module]}:{node.lineno} imports {name}, which does not exist"
                )
                yield name, node.lineno


def test_every_package_has_a_floor() -> None:
    parts = {part_of(module) for module in MODULES}
    assert parts == HEIGHT.keys()


def test_packages_import_only_from_lower_floors() -> None:
    wrong = [
        f"{MODULES[module].relative_to(PACKAGE)}:{line} imports {name}:"
        f" {part_of(name)} is not below {part_of(module)}"
        for module in sorted(MODULES)
        for name, line in imports(module)
        if part_of(name) != part_of(module)
        # The test above reports a part without a floor.
        and HEIGHT.get(part_of(name), -1) >= HEIGHT.get(part_of(module), len(FLOORS))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes of a cycle in a graph, the first repeated at the end; empty if there is no cycle."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for following in sorted(graph[node]):
                if found := search(following, [*path, node]):
                    return found
            done.add(node)
        return []

    return next(filter(None, (search(node, []) for node in sorted(graph))), [])


def test_modules_have_no_import_cycle() -> None:
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
    found = circle({module: {name for name, _ in imports(module)} for module in MODULES})
    assert not found, " -> ".join(found)


def test_import_scan_finds_lazy_and_annotation_imports() -> None:
    assert "sdst.training.fit" in {name for name, _ in imports("sdst.training.train")}
    seen = {
        part_of(name) for module in MODULES if part_of(module) == "training" for name, _ in imports(module)
    }
    assert {"losses", "metrics"} <= seen


def imported(modules: Sequence[str], *heavy: str) -> dict[str, str]:
    """Heavy packages that importing the modules in order loads, with the module that loads each."""
    program = f"""
import importlib, sys
found = {{}}
for module in {list(modules)}:
    importlib.import_module(module)
    for name in {heavy}:
        if name in sys.modules:
            found.setdefault(name, module)
print(repr(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, str] = ast.literal_eval(done.stdout)
    return found


@pytest.mark.processes
def test_evaluation_published_numbers_and_lists_of_runs_import_no_torch() -> None:
    modules = ["sdst", "sdst.types", "sdst.cli", "sdst.metrics.commands", "sdst.analysis.commands"]
    modules += ["sdst.reports.published", "sdst.runs.commands", "sdst.show.collection"]
    assert imported(modules, "torch", "lightning", "hydra", "torchmetrics", "matplotlib") == {}


@pytest.mark.processes
def test_command_modules_do_not_import_lightning() -> None:
    found = imported(
        [module for module, _ in COMMANDS.values()],
        "torch",
        "lightning",
        "torchmetrics",
        "matplotlib",
        "starlette",
    )
    assert found.keys() == {"torch"}
