"""A process that holds features in shared memory; a module, because a spawned process imports it."""

import os
import signal
import time
from pathlib import Path

from sdst.data import shared
from sdst.data.store import FeatureStore


def hold(folder: Path, features: Path, name: str, dies_while_filling: bool) -> None:
    """Hold the features until the folder has a file named end."""
    shared.SHARED_MEMORY = folder / "shm"
    if dies_while_filling:
        shared.fill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    store = FeatureStore(features)
    held = shared.share(store)
    (folder / name).write_text(str(held.video(store.vids()[0]).sum()))
    while not (folder / "end").exists():
        time.sleep(0.05)
