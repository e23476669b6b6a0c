"""Progress where there is no terminal: a line a minute."""

import logging

import pytest

from sdst import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless the test moves it."""
    now = [0.0]
    monkeypatch.setattr("sdst.progress.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("tracked", [False, True])
def test_a_line_a_minute_tells_how_much_is_done(
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


def test_short_work_tells_nothing(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sdst"), progress.progress_bars() as bars:
        task = bars.add_task("queries", total=None)
        bars.advance(task, 3)
        clock[0] += 59
        bars.advance(task)
        assert not caplog.records
        clock[0] += 2
        bars.advance(task, 1000)
    assert [record.message for record in caplog.records] == ["queries: 1,004"]
