"""Every ``sdst`` command of the README runs, in its order, on a tiny data set under the README's file names."""

import re
import shlex
from pathlib import Path

import pytest

from sdst.cli import main
from sdst.data.toy import write_toy_annotations

README = Path(__file__).parents[1] / "README.md"
FILES = {"train": "highlight_train_release", "val": "highlight_val_release", "test": "highlight_test_with_gt"}
SMALL = ["trainer.max_epochs=1", "model.dim=16", "model.num_queries=3", "data.num_workers=0"]


def readme_commands() -> list[list[str]]:
    blocks = re.findall(r"^ *```\n(.*?)^ *```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("sdst ")]


def expanded(arguments: list[str]) -> list[str]:
    """What a shell makes of the patterns."""
    return [
        name
        for argument in arguments
        for name in (sorted(map(str, Path().glob(argument))) if "*" in argument else [argument])
    ]


def test_every_command_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SDST_DATA", "SDST_FEATURES", "SDST_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    made = write_toy_annotations(tmp_path, num_train=4, num_val=2, num_test=2, seed=0)
    folder = tmp_path / "data" / "qvhighlights"
    folder.mkdir(parents=True)
    for split, path in made.items():
        path.rename(folder / f"{FILES[split]}.jsonl")
    commands = readme_commands()
    assert {command[0] for command in commands} == {"train", "evaluate", "predict", "features"}
    for command in commands:
        small = SMALL if command[0] == "train" and "--cfg" not in command else []
        if command[1] == "simulate":
            small = ["--video-dim", "16", "--text-dim", "16"]
        assert main(expanded(command) + small) == 0, (command, capsys.readouterr().err)
    assert (tmp_path / "val.png").stat().st_size > 0


def test_every_file_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:src|conf)/[\w./]+)`", README.read_text())
    assert named
    assert [name for name in named if not (README.parent / name).exists()] == []
