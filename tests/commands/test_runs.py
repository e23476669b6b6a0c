"""``sdst runs``: states, filters and orders against plain loops, links, widths and damaged folders."""

import csv
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.listed_runs import METRICS, write_run
from sdst.cli import main
from sdst.files.locks import lock
from sdst.runs.find import find_runs

Listing = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def listing(capsys: pytest.CaptureFixture[str]) -> Listing:
    """Function that returns what ``sdst runs ... --json`` prints."""

    def run(*arguments: str | Path) -> list[dict[str, Any]]:
        assert main(["runs", *map(str, arguments), "--json"]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return found

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 finished runs: two data sets, models and learning rates, three seeds; each changed at its own time."""
    runs = tmp_path / "runs"
    number = 0
    for data in ("world", "tacos"):
        for model in ("sdst", "lst"):
            for seed in (0, 1, 10):
                for lr in (1e-4, 2e-4):
                    values = (float(number % 7), 100.0 - number, float(number * 13 % 24))
                    path = write_run(
                        runs / data / f"{number:02}", data=data, model=model, seed=seed, lr=lr, values=values
                    )
                    for file in path.rglob("*"):
                        os.utime(file, (1_000_000 + number * 7 % 24, 1_000_000 + number * 7 % 24))
                    number += 1
    return runs


@pytest.fixture
def states(tmp_path: Path) -> Iterator[Path]:
    """A folder with one run in each state."""
    jobs = tmp_path / "states"
    write_run(jobs / "finished")
    write_run(jobs / "interrupted", values=None)
    failed = write_run(jobs / "failed", values=None)
    (failed / "failed.txt").write_text(
        "Traceback (most recent call last):\n  ...\nRuntimeError: out of memory\n"
    )
    (write_run(jobs / "damaged") / "metrics.json").write_text("{")
    waiting = write_run(tmp_path / "elsewhere")
    shutil.copy(waiting / "config.yaml", jobs / "0123456789ab.yaml")
    running = write_run(jobs / "running", values=None)
    with (running / "run.lock").open("a") as file:
        assert lock(file)
        yield jobs


def test_each_run_has_its_state_and_reason(states: Path, listing: Listing) -> None:
    found = {Path(run["path"]).name: run for run in listing(states)}
    assert {name: run["state"] for name, run in found.items()} == {
        "finished": "finished",
        "interrupted": "interrupted",
        "failed": "failed",
        "damaged": "damaged",
        "0123456789ab": "not-started",
        "running": "running",
    }
    assert found["failed"]["reason"] == "RuntimeError: out of memory"
    assert found["damaged"]["reason"].startswith("metrics.json: damaged (")
    assert found["0123456789ab"]["data"] == "world"
    for state in ("finished", "not-started", "running"):
        assert [run["state"] for run in listing(states, f"state={state}")] == [state]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", "- 1\n"),
        ("run.json", "[]"),
        ("metrics.json", '{"dataset": 1}'),
        (
            "metrics.json",
            '{"dataset": "w", "simulated": false, "epochs": 1, "selected": {}, "best": {"val": 3}}',
        ),
        ("config.yaml", None),
    ],
)
def test_damaged_folder_is_a_row_with_a_reason(
    file: str, content: str | None, tmp_path: Path, listing: Listing
) -> None:
    write_run(tmp_path / "runs" / "good")
    path = write_run(tmp_path / "runs" / "bad") / file
    path.write_text(content) if content is not None else path.unlink()
    found = {Path(run["path"]).name: run for run in listing(tmp_path / "runs")}
    assert found["good"]["state"] == "finished"
    assert found["bad"]["state"] == "damaged"
    assert file in found["bad"]["reason"]


@pytest.mark.parametrize(
    "filters",
    [
        {"data": ["world"]},
        {"model": ["lst"], "seed": ["0", "10"]},
        {"optim.lr": ["0.0002"]},
        {"data": ["tacos"], "model": ["sdst"], "seed": ["1"]},
        {"state": ["finished"]},
        {"state": ["failed", "running"]},
    ],
)
def test_filters_equal_a_loop(filters: dict[str, list[str]], folder: Path, listing: Listing) -> None:
    everything = listing(folder)
    assert len(everything) == 24

    def value(run: dict[str, Any], key: str) -> str:
        return str(run["options"].get(key, run.get(key)))

    wanted = [
        run["path"]
        for run in everything
        if all(value(run, key) in allowed for key, allowed in filters.items())
    ]
    texts = [f"{key}={','.join(allowed)}" for key, allowed in filters.items()]
    assert [run["path"] for run in listing(folder, *texts)] == wanted


def test_numbers_are_equal_however_they_are_written(folder: Path, listing: Listing) -> None:
    assert len(listing(folder, "optim.lr=2e-4")) == 12
    assert len(listing(folder, "seed=1.0,0")) == 16
    assert len(listing(folder, "model.dim=16")) == 24  # an option that nobody has overridden


@pytest.mark.parametrize(
    ("key", "value", "descends"),
    [
        ("selected", lambda run: run["selected"], True),
        ("test", lambda run: run["test"], True),
        ("HL-min-VeryGood-Hit1", lambda run: run["metrics"]["val HL-min-VeryGood-Hit1"], True),
        ("test HL-min-VeryGood-Hit1", lambda run: run["metrics"]["test HL-min-VeryGood-Hit1"], True),
        ("age", lambda run: run["changed"], True),
        ("size", lambda run: run["bytes"], True),
        ("seed", lambda run: int(run["seed"]), False),
        ("path", lambda run: run["path"], False),
        ("data", lambda run: run["data"], False),
    ],
)
def test_order_equals_sorting(
    key: str, value: Callable[[dict[str, Any]], Any], descends: bool, folder: Path, listing: Listing
) -> None:
    found = [value(run) for run in listing(folder, "--sort", key)]
    assert found == sorted(found, reverse=descends)
    backwards = [value(run) for run in listing(folder, "--sort", key, "--reverse")]
    assert backwards == found[::-1]


def test_runs_without_a_value_come_last_either_way(states: Path, listing: Listing) -> None:
    for options in ([], ["--reverse"]):
        found = listing(states, "--sort", "selected", *options)
        assert found[0]["state"] == "finished"
        assert [run["selected"] for run in found[1:]] == [None] * 5


def test_latest_are_those_changed_last(folder: Path, listing: Listing) -> None:
    changed = sorted((run["changed"] for run in listing(folder)), reverse=True)
    assert [run["changed"] for run in listing(folder, "--latest", "5")] == changed[:5]
    assert Counter(run["changed"] for run in listing(folder, "--latest", "5", "--sort", "seed")) == Counter(
        changed[:5]
    )


def test_linked_runs_count_once_under_their_own_folder(folder: Path) -> None:
    multirun = folder / "a multirun"
    multirun.mkdir()
    for path in (folder / "world").iterdir():
        (multirun / f"lr={path.name}").symlink_to(path)
    (folder / "world" / "circle").symlink_to(folder)
    found = find_runs([folder])
    assert len(found) == 24
    assert not any(path.is_symlink() for path in found)
    assert all(path.is_symlink() for path in find_runs([multirun]))
    assert len(find_runs([multirun, folder])) == 24


def test_default_folder_is_that_of_all_runs(
    folder: Path, listing: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDST_RUNS", str(folder))
    assert listing() == listing(folder)


def test_terminal_of_80_columns_shows_all_columns(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", str(folder)]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "differs", "state", "val", "mAP", "test", "age", "size"]
    assert sum("finished" in line for line in lines) == 24


def test_pipe_has_a_line_per_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder), "data=world"]) == 0
    first, _, *lines = capsys.readouterr().out.splitlines()
    assert first == "all: data=world"
    assert len(lines) == 12
    assert {line.split()[0] for line in lines} == {str(path) for path in (folder / "world").iterdir()}
    assert all(re.search(r"model=\w+ optim\.lr=\S+ seed=\d+  ", line) for line in lines)


def test_csv_has_all_metrics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(folder), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 24
    assert {f"{split} {name}" for split in ("val", "test") for name in METRICS} <= rows[0].keys()
    assert {"path", "data", "model", "seed", "optim.lr", "bytes"} <= rows[0].keys()
    for row in rows:
        assert float(row["selected"]) == float(row["val MR-full-mAP"]) == float(row["test"]) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{runs}", "sed=1"], "no run has 'sed'; did you mean 'seed'?"),
        (["{runs}", "state=done"], "unknown state 'done'; choose from finished, running"),
        (["{runs}", "--sort", "optim.lrr"], "no run has 'optim.lrr'; did you mean 'optim.lr'?"),
        (["{runs}/none"], "no such folder"),
        (["{empty}"], "no run here"),
        (["{runs}", "--latest", "0"], "must be at least 1, got 0"),
    ],
)
def test_user_error_is_one_line(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["runs", *(text.format(runs=folder, empty=empty) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_texts_of_a_run_cannot_control_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two")
    (run / "run.json").write_text(
        json.dumps({"choices": {"data": "\x1b[31m[red]", "model": "sdst"}, "overrides": []})
    )
    assert main(["runs", str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "data=\\x1b[31m[red]" in out


@pytest.mark.parametrize("word", ["\ud800", "a\nb", "</script><b>", {"deep": []}, 10**40])
def test_hostile_words_are_listed(word: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    run = write_run(runs / os.fsdecode(b"bad \xff name"))
    write_run(runs / "good")
    (run / "run.json").write_text(json.dumps({"choices": {"data": word, "loss": word}, "overrides": [word]}))
    for options in ([], ["--csv"], ["--json"]):
        assert main(["runs", str(runs), *options]) == 0
        out = capsys.readouterr().out
        assert options or out.replace("\n", "").isprintable()
    assert main(["show", str(runs)]) == 0
    page = (runs / "index.html").read_text(encoding="utf-8")
    assert page.count("<script") == 2
    assert "<b>" not in page
