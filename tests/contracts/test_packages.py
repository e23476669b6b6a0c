"""Extras hold what the code imports and the messages name; the locked versions fit; predictions need no Lightning."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: Mapping[str, list[str]] = PROJECT["optional-dependencies"]
IMPORTED_AS = {
    "pyyaml": "yaml",
    "mlflow-skinny": "mlflow",
    "hydra-core": "hydra",
    "python-multipart": "python_multipart",
}
"""Distribution -> name of its package, where they differ."""
UNDECLARED = {"sdst", "hydra_plugins", "packaging", "typing_extensions"}
"""Imported packages that are ours, or that Hydra and torch bring."""
RUN = ROOT / "tests/data/run_of_6d3aee6"


def requirements(*extras: str) -> Iterator[Requirement]:
    """Direct requirements of the core and of extras, also of extras that name others."""
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        requirement = Requirement(line)
        if requirement.name == "sdst":
            yield from requirements(*requirement.extras)
        else:
            yield requirement


def locked(name: str) -> dict[str, str]:
    """Distribution -> version in a file of ``requirements/``."""
    lines = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_dev_holds_every_extra_except_the_launchers_of_clusters() -> None:
    missing = {r.name for r in requirements(*EXTRAS)} - {r.name for r in requirements("dev")}
    assert missing == {"hydra-ray-launcher"}


@pytest.mark.parametrize(("name", "extras"), [("demo", ("extract", "plot", "train")), ("test", ("dev",))])
def test_locked_versions_satisfy_every_direct_requirement(name: str, extras: tuple[str, ...]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"$(call VERSIONS,{name}) '$(TORCH)' --editable '.[{','.join(extras)}]'" in makefile
    (torch,) = re.findall(r"^TORCH \?= torch==(\S+)$", makefile, flags=re.MULTILINE)
    versions = locked(name) | {"torch": torch}
    for requirement in requirements(*extras):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_both_locks_name_the_same_versions_and_no_registry() -> None:
    demo, test = locked("demo"), locked("test")
    assert demo.items() <= test.items()
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"://|--|^-|@", path.read_text(encoding="utf-8"), flags=re.MULTILINE), path


def test_messages_and_documents_name_existing_extras() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml"), *(ROOT / "docs").glob("*.md")]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    named = {
        extra
        for path in files
        for names in re.findall(r"(?:sdst|\.whl|'\.)\[([a-z,]+)\]", path.read_text(encoding="utf-8"))
        for extra in names.split(",")
    }
    assert {"extract", "track", "train"} <= named <= EXTRAS.keys()


def test_every_imported_package_is_declared() -> None:
    names = [requirement.name for requirement in requirements("dev")]
    declared = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    assert imported - declared - sys.stdlib_module_names - UNDECLARED == set()


WITHOUT_LIGHTNING = """
import sys
sys.modules["lightning"] = sys.modules["torchmetrics"] = None  # as if not installed
from sdst.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.processes
def test_predictions_need_no_lightning(tmp_path: Path) -> None:
    stored = ["--features", str(RUN / "corpus/features.h5"), "--annotations", str(RUN / "corpus/val.jsonl")]
    command = ["predict", "--checkpoint", str(RUN), *stored, "--out", str(tmp_path / "predictions.jsonl")]
    subprocess.run([sys.executable, "-c", WITHOUT_LIGHTNING, *command], check=True, timeout=300)
    assert (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").count('"qid"') > 1


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "extras"),
    [("bench load", "train"), ("train data=qvhighlights", "train"), ("demo", "extract,plot,train")],
)
def test_training_without_lightning_names_the_extra_in_one_line(
    command: str, extras: str, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIGHTNING, *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    name = command.split()[0]
    line = f"sdst: error: sdst {name}: lightning is not installed; pip install 'sdst[{extras}]'\n"
    assert done.stderr == line
