"""Progress without a terminal: one log line per minute."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.corpus import make_rows, write_rows
from sdst.cli import main
from sdst.console import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless the test moves it."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.mark.parametrize("tracked", [False, True])
def test_one_line_per_minute_says_how_much_is_done(
    clock: list[float], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tracked: bool
) -> None:
    with caplog.at_level(logging.INFO, logger="sdst"), progress.progress_bars() as bars:
        if tracked:
            for _ in bars.track(range(2000), description="clips"):
                clock[0] += 0.05
        else:
            task = bars.add_task("clips", total=2000)
            for _ in range(2000):
                clock[0] += 0.05
                bars.advance(task)
    (message,) = [record.message for record in caplog.records]
    done = int(message.removeprefix("clips: ").removesuffix(" of 2,000").replace(",", ""))
    assert 60 / 0.05 <= done <= 60 / 0.05 + 2
    assert capsys.readouterr().err == ""


def test_short_work_logs_nothing(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sdst"), progress.progress_bars() as bars:
        task = bars.add_task("queries", total=None)
        bars.advance(task, 3)
        clock[0] += 59
        bars.advance(task)
        assert not caplog.records
        clock[0] += 2
        bars.advance(task, 1000)
    assert [record.message for record in caplog.records] == ["queries: 1,004"]


def test_feature_commands_report_every_long_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)

    def reported(*arguments: object) -> list[str]:
        """The last line of each step of a command."""
        caplog.clear()
        assert main(["features", *map(str, arguments)]) == 0
        lines = [tuple(record.message.partition(": ")[::2]) for record in caplog.records]
        return [f"{step}: {how}" for step, how in dict(lines).items() if " of " in how]

    rows = make_rows("val", 3)  # of two videos
    annotations, made = write_rows(tmp_path / "a.jsonl", rows), tmp_path / "made.h5"
    with caplog.at_level(logging.INFO, logger="sdst"):
        sizes = ["--video-dim", 8, "--text-dim", 8]
        assert reported("simulate", annotations, "--out", made, *sizes) == [
            "simulating videos: 2 of 2",
            "simulating queries: 3 of 3",
            "writing made.h5: 5 of 5",
        ]
        assert reported("validate", made) == ["reading videos (adaptive): 2 of 2", "reading queries: 3 of 3"]
        assert reported("merge", made, "--out", tmp_path / "merged.h5") == [
            "reading made.h5: 5 of 5",
            "writing merged.h5: 5 of 5",
        ]
        folder = tmp_path / "arrays"
        folder.mkdir()
        for row in rows:
            np.save(folder / f"{row['vid']}.npy", np.ones((int(row["duration"]) // 2, 8)))
            np.save(folder / f"{row['qid']}.npy", np.ones((4, 8)))
        places = ["--videos", folder, "--queries", folder, "--out", tmp_path / "imported.h5"]
        assert reported("import", "--annotations", annotations, "--backbone", "other", *places) == [
            "videos: 2 of 2",
            "queries: 3 of 3",
            "writing imported.h5: 5 of 5",
        ]
