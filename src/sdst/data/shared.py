"""``data.cache=memory``: features in a file in shared memory, held once for all jobs of a user.

The file lies in /dev/shm, whose files are main memory: they are never written to a disk, and all processes that map one
share its pages. Each job holds a shared lock on the file. The last one to end gets the exclusive lock and removes it.
The kernel releases the locks of a killed job, so what it leaves behind is used or removed by the next job that starts.
A file beside the features would need no cleaning, but their disk would hold them twice, might be slow or read-only, and
the system would drop its pages when memory is short.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import shutil
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch

from sdst.data.packed import GB, Table, available_memory, fill, require_room, tables
from sdst.errors import UserError
from sdst.files.atomic import cannot_write
from sdst.files.locks import lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from sdst.data.store import FeatureStore
    from sdst.types import Qid

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # a folder of this user within it is used
OPTION = "data.cache=memory"
COMPLETE = b"sdst features 1\n"
"""Last bytes of a complete file, after the rows of videos, the rows of queries, JSON, and its length in 8 bytes."""


class SharedFeatures:
    """The features of a store in shared memory; unpickled, it maps the same file.

    Args:
        path: The file.
        file: The open file, complete and under a shared lock.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        end = len(memory) - len(COMPLETE)
        length = int.from_bytes(memory[end - 8 : end], "little")
        described = json.loads(memory[end - 8 - length : end - 8])
        self._video, self._text = (
            Table(width, tuple(slots), {name: tuple(place) for name, place in places.items()})
            for width, slots, places in described
        )
        self._video_rows, self._text_rows = _arrays(memory, self._video, self._text)
        weakref.finalize(self, _leave, path, file, os.getpid())

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path,)

    def video(self, vid: str) -> NDArray[np.float16]:
        """Features (K, T, Dv) of a video, as from the store."""
        return self._video.item(self._video_rows, vid)

    def text(self, qid: Qid) -> NDArray[np.float16]:
        """Features (K, L, Dt) of a query, as from the store."""
        return self._text.item(self._text_rows, str(qid))


_latest: SharedFeatures | None = None
"""What this process mapped last: kept until it maps another file, because the next job of a multirun often needs it."""


def share(store: FeatureStore) -> SharedFeatures:
    """The features of a store in shared memory, from a job of this machine that holds them, or read from the file now.

    Raises:
        UserError: They do not fit, the shared memory cannot be used, or the features are damaged.
    """
    global _latest
    folder = _folder()
    path = folder / _key(store)
    if _latest is None or _latest.path != path:
        _latest = None
        try:
            _remove_unused(folder, path)
            _latest = _open(path, store)
        except OSError as error:
            raise cannot_write(path, error) from error
    return _latest


def _folder() -> Path:
    """This user's folder in shared memory, which nobody else can write to.

    Raises:
        UserError: There is no shared memory, or somebody else has made the folder.
    """
    if not SHARED_MEMORY.is_dir():
        raise UserError(
            f"{OPTION}: needs the folder {SHARED_MEMORY}, which this system lacks; use data.cache=none"
        )
    folder = SHARED_MEMORY / f"sdst-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UserError(
            f"{OPTION}: {folder} must be a folder of yours that nobody else can write to; remove it, "
            "or use data.cache=none"
        )
    return folder


def _key(store: FeatureStore) -> str:
    """Name of the shared file: the same for the same feature file, layers and pooling.

    A fingerprint would not do, because it reads only a few items of a feature file: if other items have changed, the
    file would be taken for the old one.
    """
    file = store.info.path.stat()
    version = [file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns]
    wanted = [store.pooling, store.video_layers, store.text_layers]
    return hashlib.sha256(json.dumps([version, wanted]).encode()).hexdigest()[:32]


def _open(path: Path, store: FeatureStore) -> SharedFeatures:
    """Map the file, filled by another process or by this one."""
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("a+b", buffering=0))
            if lock(file) and _is_at(path, file) and not _is_complete(file):  # nobody uses it
                _write(path, file, store)
            # Waits while another process fills it. Between the two locks the file may be removed, so it is looked at
            # again.
            lock(file, wait=True, shared=True)
            if _is_at(path, file) and _is_complete(file):
                stack.pop_all()
                return SharedFeatures(path, file)


def _reopened(path: Path) -> SharedFeatures:
    """The file in a process that was started by one that uses it."""
    file = path.open("rb", buffering=0)
    lock(file, wait=True, shared=True)
    return SharedFeatures(path, file)


def _write(path: Path, file: IO[bytes], store: FeatureStore) -> None:
    """Fill the file, on which this process has the exclusive lock; remove it if that fails.

    Raises:
        UserError: The features do not fit or are damaged.
    """
    try:
        file.truncate(0)
        video, text = tables(store)
        end = json.dumps([[table.width, table.slots, table.places] for table in (video, text)]).encode()
        end += len(end).to_bytes(8, "little") + COMPLETE
        size = video.num_bytes + text.num_bytes
        needed = size + len(end)
        free = min(shutil.disk_usage(path.parent).free, available_memory())
        where = f"shared memory ({SHARED_MEMORY})"
        require_room(OPTION, needed, free, where, "give it more (docker run --shm-size)")
        logger.info("%s: reading %.2f GB of features into %s", OPTION, needed / GB, where)
        # A file with holes would end the process if memory ran out.
        os.posix_fallocate(file.fileno(), 0, size)
        with mmap.mmap(file.fileno(), size) as memory:
            rows = [torch.from_numpy(array) for array in _arrays(memory, video, text)]
            fill(store, (video, rows[0]), (text, rows[1]), OPTION)
            del rows  # a mapping in use cannot be closed
        file.write(end)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _arrays(memory: mmap.mmap, *parts: Table) -> Iterator[NDArray[np.float16]]:
    """The rows of the tables, which follow each other in memory."""
    offset = 0
    for table in parts:
        values = np.frombuffer(memory, np.float16, table.rows * table.width, offset)
        yield values.reshape(table.rows, table.width)
        offset += table.num_bytes


def _is_complete(file: IO[bytes]) -> bool:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), len(COMPLETE), max(0, size - len(COMPLETE))) == COMPLETE


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file still has its name; another process may have removed it before this one had its lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _leave(path: Path, file: IO[bytes], process: int) -> None:
    """Close the file, and remove it if no other process uses it; a forked process leaves that to its parent."""
    if os.getpid() == process and lock(file) and _is_at(path, file):
        path.unlink()
    file.close()


def _remove_unused(folder: Path, but: Path) -> None:
    """Remove what killed jobs have left behind."""
    for path in folder.iterdir():
        if path != but:
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                if lock(file) and _is_at(path, file):
                    path.unlink()
