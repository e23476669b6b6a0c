"""A new HDF5 file on a disk that may become full."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer


class DeferredErrorFile(io.FileIO):
    """A file that keeps its first write error for ``check`` and does not raise it.

    When a write fails, HDF5 retries everything it holds, prints each failure at length and sometimes crashes. This file
    hides the failure from HDF5.

    Attributes:
        failure: The first write error; nothing is written after it.
    """

    failure: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        """Write all of the data, or keep the error."""
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while self.failure is None and view:
                view = view[super().write(view) :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or lengthen the file, or keep the error."""
        size = self.tell() if size is None else size
        try:
            if self.failure is None:
                super().truncate(size)
        except OSError as error:
            self.failure = error
        return size

    def check(self) -> None:
        """Raise the kept error, if there is one."""
        if self.failure is not None:
            raise self.failure


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, DeferredErrorFile]]:
    """Create an HDF5 file; yields it and the file below it, whose ``check`` the caller calls now and then.

    Raises:
        OSError: The file cannot be written; raised after HDF5 has closed it.
    """
    with DeferredErrorFile(path, "w+") as output:
        with h5py.File(output, "w") as file:
            yield file, output
        output.check()
