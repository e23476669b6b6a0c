"""A short, fixed part of the matrix of kills in ``make test-faults``, and what its checks notice."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")
pytest.importorskip("transformers")
if not Path("/proc/self/schedstat").exists():
    pytest.skip("needs /proc/self/schedstat of Linux to measure processor time", allow_module_level=True)

from attempts import MARK, Ending, held_locks, members, shared_memory
from kill_matrix import Cell, Place, kill_once, make_places, make_strike, run_undisturbed
from sdst.files.locks import lock

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    return make_places(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Place], tuple[float, Any]]:
    """Function that runs a place's command once and returns its processor seconds and its result."""
    known: dict[Any, tuple[float, Any]] = {}

    def run(place: Place) -> tuple[float, Any]:
        if place.kind.command not in known:
            known[place.kind.command] = run_undisturbed(place, tmp_path_factory.mktemp("whole") / "run")
        return known[place.kind.command]

    return run


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("training, main process", "while writing"),
        ("training, loader worker", "early"),
        ("training, one of two ranks", "middle"),
        ("extraction, main process", "early"),
    ],
)
def test_command_repeated_after_a_kill_gives_its_result_and_nothing_is_left(
    places: dict[str, Place],
    undisturbed: Callable[[Place], tuple[float, Any]],
    tmp_path: Path,
    name: str,
    moment: str,
) -> None:
    seconds, expected = undisturbed(places[name])
    strike = make_strike(places[name], moment, seconds, random.Random(f"test {name}"))
    cell = kill_once(places[name], strike, tmp_path, expected)
    assert not cell.problems
    assert cell.kills == len(cell.results) == 1


def test_checks_notice_processes_locks_and_shared_memory(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={MARK: "7"}, start_new_session=True
    )
    try:
        assert list(members(7)) == list(members(child.pid)) == [child.pid]
    finally:
        child.kill()
        child.communicate()
    assert not members(child.pid)
    with (tmp_path / "run.lock").open("a") as file:
        assert lock(file)
        assert held_locks(tmp_path) == [tmp_path / "run.lock"]
    assert not held_locks(tmp_path)
    shared = Path(f"/dev/shm/torch_{child.pid}_test")
    shared.touch()
    try:
        assert shared_memory({child.pid}) == [shared]
    finally:
        shared.unlink()


def test_everything_that_a_kill_leaves_is_a_problem(tmp_path: Path) -> None:
    cell = Cell(results=[False])
    cell.note(Ending(status=1, orphans=["a"], locks=[tmp_path], shared=[tmp_path]), (2,), tmp_path)
    cell.left["temporary files"].append("b")
    total = Cell(kills=2)
    total.add(cell)
    assert len(total.problems) == 6
    assert str(total) == (
        "2 kills, 1 lost, 1 orphans, 1 left locks, 1 shared-memory files, 1 temporary files, "
        "0 of 1 results identical"
    )
