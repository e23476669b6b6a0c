"""A lock ends with its process, and a forked child neither keeps it nor takes it away."""

import os
import signal
from pathlib import Path

from sdst.files.locks import lock


def test_a_forked_child_neither_keeps_nor_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    reading, writing = os.pipe()
    with path.open("a") as file, path.open("a") as other:
        assert lock(file)
        child = os.fork()
        if child == 0:
            os.write(writing, b"x")
            signal.pause()  # lives until it is killed
        try:
            assert os.read(reading, 1) == b"x"
            assert not lock(other)
            file.close()
            assert lock(other)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            os.close(writing)


def test_a_forked_child_can_still_close_its_files(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("a") as file:
        assert lock(file)
        child = os.fork()
        if child == 0:
            number = file.fileno()
            file.write("lost")
            file.close()
            os._exit(int(os.path.exists(f"/proc/self/fd/{number}")))
        assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "lock").read_text() == ""
