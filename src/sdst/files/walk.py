"""All files below a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def walk(folder: Path) -> Iterator[str]:
    """Paths of every file below a folder, sorted by folder and name; linked folders are followed once.

    The paths are strings, because ten thousand Path objects take longer to make than small files to read.

    Raises:
        OSError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            yield os.path.join(place, name)
