"""Shell completion: Hydra's script in a real bash asks ``sdst``, which answers with commands, groups and options."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdst.cli import COMMANDS, main
from sdst.config.compose import conf_dir

ASK = """
eval "$(sdst {command} -sc install=bash)"
for COMP_LINE in "$@"; do
    COMP_POINT=${{#COMP_LINE}}
    COMP_WORDS=($COMP_LINE)
    [[ "$COMP_LINE" == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
    COMPREPLY=()
    $(complete -p sdst | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    echo "${{COMPREPLY[*]}}"
done
eval "$(sdst {command} -sc uninstall=bash)"
complete -p sdst 2> /dev/null || echo removed
"""


def choices(group: str) -> str:
    return " ".join(
        f"{group}={name}" for name in sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
    )


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("command", ["", "train"])
def test_bash_completes_commands_groups_choices_and_options(tmp_path: Path, command: str) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/sdst"  # of this checkout, whatever is installed
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m sdst "$@"\n')
    script.chmod(0o755)
    (tmp_path / "own/data").mkdir(parents=True)
    (tmp_path / "own/data/mine.yaml").touch()
    expected = {
        "sdst tr": "train",
        "sdst ": " ".join(COMMANDS),
        "sdst train data=": choices("data"),
        "sdst train model=r2": "model=r2_tuning",
        "sdst train optim.l": "optim.lr=",
        "sdst train -m seed=1,2 model=sdst,ls": "model=sdst,lst",
        "sdst train -cd own data=mi": "data=mine",
        "sdst train --mult": "--multirun",
        "sdst train nonsense=1 optim.l": "",
    }
    if command:  # the same script: one answer shows that it was installed
        expected = {"sdst train optim.l": "optim.lr="}
    lines = [*expected, "sdst train da"]
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK.format(command=command), "bash", *lines],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    *answers, data, removed = done.stdout.splitlines()
    assert dict(zip(expected, answers, strict=True)) == expected
    assert set(data.split()) == {"data.", "data="}
    assert removed == "removed"


def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, shell: str) -> str:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert main(["-sc", f"query={shell}"]) == 0
    return capsys.readouterr().out


def test_zsh_is_answered_like_bash_and_fish_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(monkeypatch, capsys, "sdst s", "zsh") == "sweep show serve\n"
    assert ask(monkeypatch, capsys, "sdst s", "fish") == "sweep\nshow\nserve\n"
    assert ask(monkeypatch, capsys, "sdst train data=", "zsh") == f"{choices('data')}\n"
    assert ask(monkeypatch, capsys, "sdst train data=", "fish").split() == choices("data").split()


def test_install_scripts_complete_the_command_sdst(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, line in (
        ("bash", "-F hydra_bash_completion sdst\n"),
        ("zsh", "-F hydra_bash_completion sdst\n"),
        ("fish", "complete -c sdst -x -a '(hydra_fish_completion)'\n"),
    ):
        for command in ([], ["train"]):
            assert main([*command, "-sc", f"install={shell}"]) == 0
            assert line in capsys.readouterr().out


def test_completion_of_commands_imports_no_hydra() -> None:
    code = (
        "import sys; from sdst.cli import main; main(['-sc', 'query=bash']); sys.exit('hydra' in sys.modules)"
    )
    environment = {**os.environ, "COMP_LINE": "sdst tr"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "train\n")


def test_completion_of_overrides_imports_no_torch() -> None:
    code = (
        "import sys; from sdst.cli import main; main(['-sc', 'query=bash']); sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "COMP_LINE": "sdst train optim.l"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "optim.lr=\n")
