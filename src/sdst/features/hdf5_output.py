"""A new HDF5 file, on a disk that may become full."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING

import h5py

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Buffer


class Output(io.FileIO):
    """A file whose writing seems to work even if it does not.

    HDF5 tries again to write whatever it holds when a write has failed: it tells each failure at length, and crashes
    now and then. So it is not told.

    Attributes:
        failure: Why the first write that failed did so; nothing is written after it.
    """

    failure: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        """Write all of the data, or keep the failure."""
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while self.failure is None and view:
                view = view[super().write(view) :]
        except OSError as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Cut or lengthen the file, or keep the failure."""
        size = self.tell() if size is None else size
        try:
            if self.failure is None:
                super().truncate(size)
        except OSError as error:
            self.failure = error
        return size

    def check(self) -> None:
        """Raise the failure, if there is one."""
        if self.failure is not None:
            raise self.failure


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, Output]]:
    """An HDF5 file to fill, and what it is written to, to be checked now and then.

    Raises:
        OSError: The file cannot be written; raised when HDF5 has let go of it.
    """
    with Output(path, "w+") as output:
        with h5py.File(output, "w") as file:
            yield file, output
        output.check()
