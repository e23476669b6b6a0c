"""Workflows, hooks, containers and forms can be read, are pinned, and run only commands that exist."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PIN = re.compile(r"^\s*(?:- )?uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
PROGRAMS = {"make", "python3", "uv", "tools"}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(path: Path) -> Iterator[list[str]]:
    """Words of each command that the steps of a workflow run."""
    for job in load(path)["jobs"].values():
        for step in job["steps"]:
            yield from (line.split() for line in step.get("run", "").splitlines())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_pinned_and_may_only_read(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    uses = [line for line in lines if "uses:" in line]
    assert uses
    assert not [line for line in uses if not PIN.match(line)]
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    for job in workflow["jobs"].values():
        assert {"timeout-minutes", "runs-on"} <= job.keys()
        assert "permissions" not in job


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_only_targets_and_tools_that_exist(path: Path) -> None:
    for program, *arguments in commands(path):
        assert program.partition("/")[0] in PROGRAMS, program
        if program == "make":
            assert {argument for argument in arguments if "=" not in argument} <= TARGETS
        elif "/" in program:
            assert os.access(ROOT / program, os.X_OK), program


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_sets_only_variables_of_the_makefile(path: Path) -> None:
    workflow = load(path)
    variables = set(workflow.get("env", {}))
    for job in workflow["jobs"].values():
        variables |= set(job.get("env", {}))
    for words in commands(path):
        variables |= {word.partition("=")[0] for word in words if words[0] == "make" and "=" in word}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([A-Z]+) \?=", makefile, flags=re.MULTILINE))
    assert variables - known <= {"UV_RESOLUTION"}


def test_hooks_use_the_locked_ruff() -> None:
    hooks = {repo["repo"]: repo for repo in load(ROOT / ".pre-commit-config.yaml")["repos"]}
    ruff = hooks["https://github.com/astral-sh/ruff-pre-commit"]
    locked = (ROOT / "requirements/test.txt").read_text(encoding="utf-8")
    assert f"\nruff=={ruff['rev'].removeprefix('v')}\n" in locked


def test_forms_of_issues_can_be_read() -> None:
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert len(forms) == 3
    for path in forms:
        form = load(path)
        assert {"name", "description", "body"} <= form.keys(), path
        names = [part["id"] for part in form["body"]]
        assert len(names) == len(set(names)), path


def test_containers_copy_and_run_what_exists() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (script,) = re.findall(r"/source/(tools/\S+)", dockerfile)
    assert os.access(ROOT / script, os.X_OK)
    assert dockerfile.rindex("USER sdst") > dockerfile.rindex("COPY")
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in kept:
        if line.startswith("!"):
            assert list(ROOT.glob(line[1:])), line
    assert f"!{script}" in kept
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert "make install" in container["postCreateCommand"]


def test_version_is_described_in_the_changelog() -> None:
    from sdst.version import __version__

    assert f"\n## [{__version__}] - 20" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
