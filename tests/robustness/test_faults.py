"""A short, fixed subset of ``make test-faults``."""

import random
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("transformers")
if not Path("/proc/self/schedstat").exists():
    pytest.skip("needs /proc/self/schedstat of Linux to measure processor time", allow_module_level=True)

from faults import Tally, allowed, run_with_faults
from interruptible import Kind, is_same, make_kinds, misbehaviour, unreadable

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return make_kinds(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", ["training", "extraction", "merging", "sweep", "report"])
def test_command_interrupted_repeatedly_reaches_the_undisturbed_result(
    kinds: dict[str, Kind], tmp_path: Path, name: str
) -> None:
    tally = run_with_faults(kinds[name], tmp_path, 1, random.Random(f"test {name}"))
    assert not tally.lost
    assert tally.results
    assert all(tally.results)
    assert tally.faults["full"] == tally.faults["read-only"] == 1
    assert tally.faults.total() == 3


def test_fault_checks_detect_lost_files_and_wrong_exits(kinds: dict[str, Kind], tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"best": ')
    (tmp_path / "features.h5").write_bytes(b"\x89HDF")
    assert len(unreadable(tmp_path)) == 2
    full, kill = (allowed(fault, kinds["training"]) for fault in ("full", "kill"))
    assert misbehaviour(0, "Traceback (most recent call last):", kill)
    assert misbehaviour(1, "", full)
    assert misbehaviour(2, "sdst: error: a\nsdst: error: b\n", full)
    assert misbehaviour(2, "sdst: error: a\n", kill)
    assert not misbehaviour(2, "sdst: error: a\n", full)
    assert not is_same({"a": [1.0]}, {"a": [1.0 + 1e-15]})
    assert "1 lost, 1 of 2" in str(Tally(lost=["x"], results=[True, False]))
