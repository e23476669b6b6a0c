"""Temporary files of dead processes go when their file is written again; those of living ones stay."""

import os
import platform
import subprocess
from pathlib import Path

from sdst.files.atomic import write_atomically


def test_only_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = platform.node()
    gone = tmp_path / f".a[1].json.{here}.{dead.pid}.tmp"
    kept = [
        tmp_path / name
        for name in (
            f".a[1].json.{here}.{os.getppid()}.tmp",
            f".a[1].json.elsewhere.{dead.pid}.tmp",
            f".b.{here}.{dead.pid}.tmp",
            ".a[1].json.tmp",
        )
    ]
    for path in (gone, *kept):
        path.touch()
    write_atomically(tmp_path / "a[1].json", "{}")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a[1].json", *kept])
