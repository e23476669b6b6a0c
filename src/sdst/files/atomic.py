"""Files that appear under their names only when they are whole and on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the user's share of it, or the file is full."""
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""The disk or the folder takes nothing."""


@contextmanager
def atomic_path(path: str | Path, *, alone: bool = False) -> Iterator[Path]:
    """A temporary name beside a file, to be written to; what is written there then takes the file's place at once.

    Readers see the old file or the new one, and so does who looks after a kill or a power cut.

    Args:
        path: The file.
        alone: No other process writes it now. What a killed one left is then overwritten, instead of lying there.

    Raises:
        UserError: The place cannot be written.
    """
    target = Path(path).resolve()  # a link stays a link: what it points to is replaced
    if target.exists() and not target.is_file():
        raise UserError(f"{path}: not a regular file; give the name of a file to write")
    temporary = target.with_name(f".{target.name}.tmp" if alone else f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # gone already, or never made
            temporary.unlink()


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file, so that readers never see half of it.

    Raises:
        UserError: The place cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def writing_below(folder: Path) -> Iterator[None]:
    """Name the folder where a file in it cannot be written, which other packages write and do not name.

    Raises:
        UserError: One cannot.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, *FORBIDDEN):
            raise
        raise cannot_write(folder, error) from error


def cannot_write(path: str | Path, error: OSError) -> UserError:
    """What to tell of a file that cannot be written."""
    reason = os.strerror(error.errno) if error.errno else " ".join(str(error).split())
    advice = "free some space and go on" if error.errno in FULL else "choose another place"
    return UserError(f"{path}: cannot be written ({reason}); {advice}")
