"""Simulated features in the layout of the authors' published files, to rehearse a download: import, check, train."""

from __future__ import annotations

import io
import tarfile
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.console.progress import track
from sdst.errors import UserError
from sdst.features.importers.arrays import SIMULATED
from sdst.features.importers.layouts import find
from sdst.features.simulate import DESIGN
from sdst.files.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from sdst.features.simulate import Simulation

LAYOUT = "sdst"
TAR_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}
"""Ending of an archive -> how tarfile opens it."""


def write_folders(simulation: Simulation, out: Path) -> None:
    """Write one ``.npz`` file per video and query, in folders or in one archive of them.

    Args:
        simulation: The features, of one pooling.
        out: A folder, in which files that are already there are kept; or an archive, .tar, .tar.gz, .tgz or .zip.

    Raises:
        UserError: The archive exists, or something cannot be written.
    """
    ending = next((ending for ending in (*TAR_MODES, ".zip") if out.name.endswith(ending)), None)
    if ending is None:
        for name, content in _members(simulation):
            path = out / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as temporary:
                    temporary.write_bytes(content())
        return
    if out.exists():
        raise UserError(f"{out}: already exists and is never overwritten; delete it or choose another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out, alone=True) as temporary:
        if ending == ".zip":
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, content in _members(simulation):
                    archive.writestr(name, content())
        else:
            with tarfile.open(temporary, TAR_MODES[ending]) as archive:  # type: ignore[call-overload]
                for name, content in _members(simulation):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(raw := content())
                    archive.addfile(entry, io.BytesIO(raw))


def _members(simulation: Simulation) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and content of every file; the content is made when it is asked for."""
    (layout,) = find(LAYOUT)
    ((video_folder, text_folder),) = layout.folders
    (pooling,) = simulation.video_towers

    def video(vid: str) -> bytes:
        return _npz(layout.video.keys[0], simulation.video(vid, pooling))

    def text(qid: str) -> bytes:
        return _npz(layout.text.keys[0], simulation.text(qid).transpose(1, 0, 2))  # layers first

    for vid in track(simulation.videos, "simulating videos"):
        yield f"{video_folder}/{layout.video.names[0].format(vid=vid)}.npz", partial(video, vid)
    for qid in track(simulation.queries, "simulating queries"):
        yield f"{text_folder}/{layout.text.names[0].format(qid=qid)}.npz", partial(text, qid)


def _npz(key: str, array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {key: array.astype(np.float16), SIMULATED: np.array(DESIGN)}
    np.savez(buffer, **arrays)
    return buffer.getvalue()
