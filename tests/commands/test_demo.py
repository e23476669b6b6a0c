"""``sdst demo`` end to end on a few videos: it writes every file it names, and a second call reuses them."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("av")
pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

import av

from helpers.small_demo import VIDEOS, run_demo
from sdst.cli import main


@pytest.mark.slow
def test_demo_trains_predicts_and_writes_an_answer(demo: Path) -> None:
    printed = (demo / "printed.txt").read_text()
    for text in ("val split", "test split", "whole video", "MR-full-mAP", "sdst predict --video"):
        assert text in printed
    run_dir = demo / "run-1-epochs"
    result = json.loads((run_dir / "metrics.json").read_text())
    assert not result["simulated"]
    (cut,) = (run_dir / "answer").glob("*.mp4")
    with av.open(str(cut)) as container:
        assert next(container.decode(video=0)).width == 128
    for picture in (run_dir / "predictions.png", run_dir / "answer" / "answer.png"):
        assert picture.stat().st_size > 10_000
    page = (run_dir / "show.html").read_text()
    assert "../world/videos/world-val-0000.mp4" in page  # the page links to the video in place


@pytest.mark.slow
def test_second_demo_call_reuses_existing_files(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "it's a demo, k=1"  # characters that Hydra's override grammar reserves
    shutil.copytree(demo, out)
    made = [*out.glob("world/**/*.mp4"), out / "world" / "features.h5", out / "run-1-epochs" / "metrics.json"]
    before = {path: path.stat().st_mtime_ns for path in made}
    assert len(before) == sum(VIDEOS) + 2
    assert run_demo(out) == 0
    assert {path: path.stat().st_mtime_ns for path in made} == before


def test_demo_refuses_a_split_without_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path), "--videos", "1", "0", "1"]) == 2
    assert "--videos" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
