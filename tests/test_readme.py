"""Every ``sdst`` command of the README runs, in its order, on a tiny data set under the README's file names."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from sdst.cli import main
from sdst.data.annotations import read_annotations
from shared_data import needs_shared
from toy_annotations import write_toy_annotations

README = Path(__file__).parents[1] / "README.md"
FILES = {"train": "highlight_train_release", "val": "highlight_val_release", "test": "highlight_test_with_gt"}
SMALL = ["trainer.max_epochs=1", "model.dim=16", "model.num_queries=3", "data.num_workers=0"]


def readme_commands() -> list[list[str]]:
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for language, block in blocks if not language for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("sdst ")]


def expanded(arguments: list[str]) -> list[str]:
    """What a shell makes of the patterns."""
    return [
        name
        for argument in arguments
        for name in (sorted(map(str, Path().glob(argument))) if "*" in argument else [argument])
    ]


def needs_videos(command: list[str]) -> bool:
    return not in_small_world(command) and (
        command[0] == "extract" or "--video" in command or "run_dir=runs/real" in command
    )


def in_small_world(command: list[str]) -> bool:
    return any("world" in argument for argument in command)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with annotations where the README puts them."""
    monkeypatch.chdir(tmp_path)
    for name in ("SDST_DATA", "SDST_FEATURES", "SDST_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    made = write_toy_annotations(tmp_path, num_train=4, num_val=2, num_test=2, seed=0)
    folder = tmp_path / "data" / "qvhighlights"
    folder.mkdir(parents=True)
    for split, path in made.items():
        path.rename(folder / f"{FILES[split]}.jsonl")
    return tmp_path


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    """Videos, and a tiny official checkpoint in the place and by the name of the large one."""
    pytest.importorskip("av")
    pytest.importorskip("transformers")
    from sdst.features import sizes
    from video_run import BACKBONE, BACKBONE_CONFIG, write_coloured_video, write_vocab

    monkeypatch.setitem(sizes.PRESETS, "internvideo2-1b", sizes.read_config(BACKBONE_CONFIG))
    (data / "weights").mkdir()
    shutil.copy(BACKBONE, data / "weights" / "internvideo2-1b.pt")
    write_vocab(data / "weights" / "vocab.txt")
    videos = data / "data" / "qvhighlights" / "videos"
    videos.mkdir()
    for path in videos.parent.glob("*.jsonl"):
        for record in read_annotations(path).records:
            if not (videos / f"{record.vid}.mov").exists():
                write_coloured_video(videos / f"{record.vid}.mov", record.duration)
    write_coloured_video(data / "holiday.mov", 9.0).rename(data / "holiday.mp4")


def run(commands: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands:
        small = SMALL if command[0] == "train" and "--cfg" not in command else []
        if command[1] == "simulate":
            small = ["--video-dim", "16", "--text-dim", "16"]
        if command[:2] == ["world", "make"]:
            small = ["--train", "1", "--val", "1", "--test", "1", "--workers", "0"]
        assert main(expanded(command) + small) == 0, (command, capsys.readouterr().err)


def test_every_command_that_needs_no_backbone_runs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [c for c in readme_commands() if not needs_videos(c) and not in_small_world(c)]
    assert {command[0] for command in commands} == {
        *("train", "show", "analyze", "evaluate", "predict", "features"),
    }
    run(commands, capsys)
    assert (data / "val.png").stat().st_size > 0


def test_every_command_in_the_small_world_runs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    pytest.importorskip("transformers")
    commands = [command for command in readme_commands() if in_small_world(command)]
    assert [command[0] for command in commands] == ["world", "extract", "train", "predict"]
    run(commands, capsys)
    assert "world-test-0000" in capsys.readouterr().out


@needs_shared
def test_every_command_on_videos_runs(
    data: Path, tiny_backbone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [command for command in readme_commands() if needs_videos(command)]
    assert [command[0] for command in commands] == ["extract", "train", "predict"]
    run(commands, capsys)
    assert (data / "holiday.png").stat().st_size > 0
    assert len(list((data / "moments").iterdir())) == 2
    (code,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)
    assert 0 <= names["start"] < names["end"] <= 9


def test_every_file_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:src|conf)/[\w./]+)`", README.read_text())
    assert named
    assert [name for name in named if not (README.parent / name).exists()] == []
