"""The origin of a run in run.json, and when wandb is offline."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from torch import nn

from sdst.errors import UserError
from sdst.training import provenance
from sdst.training.loggers import wandb as tracking
from sdst.training.provenance import describe_run, parameter_table
from sdst.version import __version__


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_parameters_are_counted_by_part_without_frozen_ones() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), "b": nn.Linear(5, 1)})
    model["b"].bias.requires_grad_(False)
    assert parameter_table(model) == {"a": 2 * 3 + 3 + 3 + 1, "b": 5, "total": 18}


def test_description_is_plain_and_names_command_versions_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/sdst", "train", "seed=3"])
    facts = json.loads(json.dumps(describe_run(nn.Linear(1, 1))))
    assert facts["command"] == ["sdst", "train", "seed=3"]
    versions = facts["versions"]
    assert versions.pop("python") == ".".join(map(str, sys.version_info[:3]))
    assert {"sdst", "torch", "lightning", "numpy"} <= set(versions)
    assert versions.pop("sdst") == __version__
    assert versions == {name: metadata.version(name) for name in versions}
    assert set(facts["machine"]) == {"platform", "cpus", "gpu"}


def test_run_names_the_commit_and_uncommitted_changes_of_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "src/sdst/__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text("x = 1\n")
    monkeypatch.setattr(provenance, "SOURCE", source.parent)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_run(nn.Linear(1, 1))["git"] is None  # not a checkout
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        git(tmp_path, *arguments)
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").touch()
    assert describe_run(nn.Linear(1, 1))["git"] == {"commit": commit, "dirty": False}
    for own in (tmp_path / "conf/model/mine.yaml", source.with_name("mine.py")):
        own.parent.mkdir(parents=True, exist_ok=True)
        own.touch()
        assert describe_run(nn.Linear(1, 1))["git"] == {"commit": commit, "dirty": True}
        own.unlink()
    source.write_text("x = 2\n")
    assert describe_run(nn.Linear(1, 1))["git"] == {"commit": commit, "dirty": True}


@pytest.mark.parametrize(
    ("mode", "key", "reachable", "offline"),
    [
        ("offline", True, True, True),
        ("online", False, False, False),
        (None, True, True, False),
        (None, True, False, True),
        (None, False, True, True),
    ],
)
def test_wandb_is_offline_on_demand_or_without_key_or_network(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mode: str | None,
    key: bool,
    reachable: bool,
    offline: bool,
) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    if key:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(tracking, "is_reachable", lambda host, port: reachable)
    made = {}
    monkeypatch.setattr(tracking, "WandbTracker", lambda **options: made.update(options))
    tracking.wandb_logger(str(tmp_path / "run7"), "project", "table1", ("a",))
    wandb.teardown()  # which was asked where its server is
    assert (made.pop("mode") == "offline") is offline
    assert len(made.pop("id")) == 8
    assert made == {
        "name": f"{tmp_path.name}/run7",
        "save_dir": str(tmp_path / "run7"),
        "project": "project",
        "group": "table1",
        "tags": ["a"],
    }


def test_wandb_finds_the_key_of_its_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not tracking._has_key("api.wandb.ai")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    netrc.chmod(0o600)
    assert tracking._has_key("api.wandb.ai")
    assert not tracking._has_key("elsewhere.example.org")


def test_wandb_not_installed_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'sdst\[track\]'"):
        tracking.wandb_logger("run", "p", None, ())
