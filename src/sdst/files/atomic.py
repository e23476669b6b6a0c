"""Files that appear under their names only when they are complete and on disk."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import platform
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk or the user's quota is full, or the file may not grow."""
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""The disk or the folder cannot be written at all."""


@contextmanager
def atomic_path(path: str | Path, *, alone: bool = False) -> Iterator[Path]:
    """A temporary path beside a file; when the context ends, what was written there replaces the file at once.

    Readers see the old file or the new one, also after a kill or a power cut.

    Args:
        path: The file to write.
        alone: Whether no other process writes this file now. If so, the temporary file always has the same name, so
            what a killed process left behind is overwritten.

    Raises:
        UserError: The file cannot be written.
    """
    target = Path(path).resolve()  # a link stays a link: its target is replaced
    if target.exists() and not target.is_file():
        raise UserError(f"{path}: not a regular file; give the name of a file to write")
    temporary = target.with_name(
        f".{target.name}.tmp" if alone else f"{_own_prefix(target)}{os.getpid()}.tmp"
    )
    try:
        if not alone:
            _remove_of_dead_processes(target)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # already moved, or never made
            temporary.unlink()


def _remove_of_dead_processes(target: Path) -> None:
    """Remove the temporary files beside this file that dead processes of this machine have left behind."""
    prefix = _own_prefix(target)
    for path in target.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        number = path.name.removeprefix(prefix).removesuffix(".tmp")
        if number.isdecimal() and not _is_running(int(number)):
            path.unlink(missing_ok=True)


def _own_prefix(target: Path) -> str:
    """Beginning of the names of temporary files; another machine on the same disk has another one."""
    return f".{target.name}.{platform.node()}."


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder; no other process may write there now."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file so that readers never see half of it.

    Raises:
        UserError: The file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Name the folder if a file in it cannot be written, for files of other packages whose errors name no file.

    Raises:
        UserError: A file cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, *FORBIDDEN):
            raise
        raise cannot_write(folder, error) from error


def cannot_write(path: str | Path, error: OSError) -> UserError:
    """The error that says why a file cannot be written, and what to do."""
    reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
    advice = "free some space and go on" if error.errno in FULL else "choose another place"
    return UserError(f"{path}: cannot be written ({reason}); {advice}")
