"""What a refused command says."""

import pytest

from sdst.cli import main


def one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What the command says on stderr, which must be one line; nothing may go to stdout."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("sdst: error: ")
    assert "Traceback" not in line
    assert 'File "' not in line
    return line
