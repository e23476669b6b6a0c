"""A digest of a feature file that needs only a few of its items."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from sdst.data.info import open_store, read_info
from sdst.errors import UserError
from sdst.untrusted import hdf5

if TYPE_CHECKING:
    from pathlib import Path

SAMPLES = 8
"""How many videos and how many queries are read, evenly spread over their sorted names."""


def fingerprint(path: Path, pooling: str) -> str:
    """SHA-256 of a feature file's recipe, the names of all items of one pooling, and the features of a few items.

    It stays the same when the file is moved, written again with the same features, or given another pooling. It also
    misses changes in items that are not sampled, but another backbone or extraction changes every item.

    Args:
        path: The feature file.
        pooling: A pooling of the file.

    Raises:
        UserError: The file cannot be used, or lacks the pooling.
    """
    info = read_info(path)
    if pooling not in info.poolings:
        raise UserError(f"{path}: no group /video/{pooling}; choose from {', '.join(info.poolings)}")
    digest = hashlib.sha256(json.dumps(info.made_by, sort_keys=True).encode())
    with open_store(path) as file:
        for key in (f"video/{pooling}", "text"):
            names = sorted(hdf5.names(file, key))
            digest.update("\n".join(names).encode(errors="surrogateescape"))
            for index in range(min(SAMPLES, len(names))):
                name = names[index * len(names) // min(SAMPLES, len(names))]
                features = hdf5.read(file, f"{key}/{name}")
                digest.update(f"{features.shape}".encode())
                digest.update(features.tobytes())
    return digest.hexdigest()
