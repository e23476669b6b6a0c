"""``sdst bench gpu``: the whole script at tiny sizes on the CPU, and what must hold of its parts."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from sdst.bench.gpu import run as gpu
from sdst.bench.gpu.agreement import difference, half_difference
from sdst.bench.gpu.processes import CannotRunError, Outcome, Task
from sdst.bench.gpu.run import PARTS, Part, write
from sdst.bench.gpu.settings import Settings
from sdst.bench.gpu.steps import covered
from sdst.bench.gpu.trainings import equal, extrapolate
from sdst.bench.report import Row
from sdst.cli import main
from sdst.config.compose import group_choices
from sdst.errors import UserError


@pytest.mark.slow
@pytest.mark.processes
def test_the_whole_script_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ["bench", "gpu", "--device", "cpu", "--rounds", "1", "--budget", "1e4", "--threads", "1"]
    assert main([*command, "--out", str(tmp_path), "optim.lr=1e-3"]) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ok (")[0] for line in lines[:-1]] == [part.name for part in PARTS]
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert {"git", "versions", "machine"} <= report.keys()
    parts = {row["part"]: row for row in report["rows"]}
    assert all(row["rows"] for row in parts.values())
    compared = parts["same results as the CPU"]["rows"]
    assert [row["case"] for row in compared] == group_choices()["model"]
    assert all(row["32-true"] <= 1e-6 for row in compared)
    (training,) = parts["paper-length training"]["rows"]
    assert training["is"] == "measured"
    assert training["case"].endswith("optim.lr=1e-3")
    table = (tmp_path / "gpu.md").read_text()
    assert "A test of the script at tiny sizes" in table
    assert table.count("\n| | | ") == sum(len(row["rows"]) for row in parts.values())


# --- processes ---


def good(settings: Settings, seconds: float) -> Iterator[Row]:
    yield {"case": "a|b", "seconds": seconds}


def wrong(settings: Settings, seconds: float) -> Iterator[Row]:
    yield {"case": "first"}
    raise UserError("two\nlines")


def crash(settings: Settings, seconds: float) -> Iterator[Row]:
    yield {"case": "first"}
    os._exit(3)


def endless(settings: Settings, seconds: float) -> Iterator[Row]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    yield {"case": "first", "child": child.pid}
    time.sleep(1000)


def lacking(settings: Settings, seconds: float) -> Iterator[Row]:
    yield from ()
    raise CannotRunError("no such thing")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("cpu", 1, (), tmp_path, tmp_path, 1, "fork")


def outcome(function: str, settings: Settings, seconds: float = 60) -> Outcome:
    return Task(f"{__name__}:{function}", settings, seconds, settings=settings, log="log").wait(seconds)


@pytest.mark.processes
def test_a_part_that_fails_crashes_or_never_ends_leaves_its_rows(settings: Settings) -> None:
    ended = outcome("good", settings)
    assert (ended.result, ended.rows) == ("ok", [{"case": "a|b", "seconds": 60}])
    for function, reason in (("wrong", "two lines"), ("crash", "its process ended with exit code 3")):
        ended = outcome(function, settings)
        assert (ended.result, ended.reason, ended.rows) == ("failed", reason, [{"case": "first"}])
        with pytest.raises(UserError, match=reason):
            ended.require()
    ended = outcome("lacking", settings)
    assert (ended.result, ended.reason) == ("skipped", "no such thing")
    ended = outcome("endless", settings, seconds=3)
    assert ended.reason == "not finished within its limit of 3 s"
    state = Path(f"/proc/{ended.rows[0]['child']}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"
    assert "two\nlines" in (settings.logs / "log").read_text()


# --- runs ---


def fake(monkeypatch: pytest.MonkeyPatch, results: dict[str, list[Outcome]]) -> list[tuple[str, str, float]]:
    """Replace parts by outcomes, one per attempt; returns the attempts: part, start method, limit."""
    attempts: list[tuple[str, str, float]] = []
    names = list(results)
    parts = [replace(gpu.MACHINE, name=names[0])]
    parts += [Part(name, "x:y", 30, needs=names[1] if name == "reader" else None) for name in names[1:]]

    def attempt(part: Part, settings: Settings, limit: float, outcomes: dict[str, Outcome]) -> Outcome:
        if part.needs is not None and outcomes[part.needs].result != "ok":
            return real(part, settings, limit, outcomes)
        attempts.append((part.name, settings.method, limit))
        return results[part.name].pop(0)

    real = gpu.run_part
    monkeypatch.setattr(gpu, "PARTS", tuple(parts))
    monkeypatch.setattr(gpu, "MACHINE", parts[0])
    monkeypatch.setattr(gpu, "run_part", attempt)
    return attempts


def test_failed_parts_hide_no_others_and_readers_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts = fake(
        monkeypatch,
        {
            "machine": [Outcome("ok")],
            "features": [Outcome("failed", "no | space", [{"case": "a", "gb": 1.0}])],
            "reader": [],
            "last": [Outcome("ok")],
        },
    )
    assert gpu.run("cpu", 120, 1, [], tmp_path, None) == 1
    assert [name for name, _, _ in attempts] == ["machine", "features", "last"]
    limits = [limit for _, _, limit in attempts]
    assert limits == pytest.approx([30, 40, 120], abs=1)  # what a part leaves goes to the later ones
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("features: failed: no | space (")
    assert lines[2].startswith("reader: skipped: it reads the features, which are missing")
    table = (tmp_path / "gpu.md").read_text()
    assert "| features | failed: no \\| space | | |\n| | | a | gb 1 |\n" in table


def test_parts_without_time_are_skipped(settings: Settings) -> None:
    skipped = gpu.run_part(PARTS[0], settings, 0.5, {})
    assert skipped.result == "skipped"
    assert "--budget" in skipped.reason


def test_processes_start_anew_where_forked_ones_cannot_use_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = fake(monkeypatch, {"machine": [Outcome("failed"), Outcome("ok")], "next": [Outcome("ok")]})
    assert gpu.run("cpu", 60, 1, [], tmp_path, None) == 0
    assert [attempt[:2] for attempt in attempts] == [
        ("machine", "forkserver"),
        ("machine", "spawn"),
        ("next", "spawn"),
    ]


def test_reports_after_each_part_have_the_machine(tmp_path: Path, settings: Settings) -> None:
    facts = {"machine": {"gpu": "H", "driver": "1.2"}, "versions": {"torch": "2.13"}, "git": None}
    rows: list[Row] = [{"case": "H", "facts": facts}]
    write(tmp_path, {"machine": Outcome("ok", rows=rows)}, replace(settings, device="cuda"))
    assert (tmp_path / "gpu.md").read_text().startswith("GPU H, driver 1.2, torch 2.13.\n\n| part |")
    assert json.loads((tmp_path / "gpu.json").read_text())["machine"] == facts["machine"]
    assert "facts" in rows[0]  # unchanged, because it is written again


def test_without_a_gpu_the_command_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "gpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs a GPU" in line
    assert "--device cpu" in line


# --- measures ---


def test_differences_are_relative() -> None:
    expected = torch.tensor([3.0, 4.0, 0.0])
    assert difference(expected + torch.tensor([0.0, 0.0, 0.5]), expected) == pytest.approx(0.1)
    assert half_difference(expected + torch.tensor([0.0, 0.0, 9.0]), expected) == 0


def test_busy_time_counts_overlaps_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 7), (0, 3), (1, 2), (2, 4)]) == 6


def test_equality_is_that_of_bits_and_structure() -> None:
    state = {"a": [torch.ones(2), (1, "x")], "b": {}}
    assert equal(state, {"a": [torch.ones(2), (1, "x")], "b": {}})
    assert not equal(state, {"a": [torch.ones(2), (1, "x")]})
    assert not equal(state, {"a": [torch.tensor([1.0, 1.0 + 1e-7]), (1, "x")], "b": {}})


def test_a_whole_training_is_extrapolated_from_a_part() -> None:
    # 25 of 100 steps at 5 per second; two of ten epochs ended, 0.5 s after each.
    row = extrapolate({"steps": 25, "seconds": 5.0, "fit_seconds": 6.0}, steps=100, epochs=10)
    assert row["fit_seconds"] == pytest.approx(100 / 5 + 10 * 0.5)
    assert row["is"] == "extrapolated"
    row = extrapolate({"steps": 5, "seconds": 1.0, "fit_seconds": 1.0}, steps=100, epochs=10)
    assert row["fit_seconds"] == pytest.approx(20)
    assert "no epoch ended" in row["is"]


def test_wheels_are_a_requirements_file_without_pytorch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu", "--wheels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {Requirement(line).name: Requirement(line) for line in lines if not line.startswith("#")}
    assert {
        "lightning",
        "hydra-core",
        "omegaconf",
        "antlr4-python3-runtime",
        "h5py",
        "joblib",
    } <= named.keys()
    assert not {"torch", "sdst", "triton", "sympy"} & named.keys()
    assert all(str(requirement.specifier).startswith("==") for requirement in named.values())
