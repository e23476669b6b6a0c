"""What wandb wrote into a run folder: records in LevelDB's log format. wandb has no reader of its own in Python."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 1 << 15
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def last_steps(folder: Path) -> dict[str, int]:
    """Key -> last step with which the offline runs in a folder have logged it.

    Args:
        folder: The folder ``wandb`` of a run folder.
    """
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # without types
    steps: dict[str, int] = {}
    for path in folder.glob("offline-run-*/run-*.wandb"):
        for payload in payloads(path):
            record = messages.Record.FromString(payload)
            if record.WhichOneof("record_type") == "history":
                for item in record.history.item:
                    key = item.key or "/".join(item.nested_key)
                    steps[key] = max(steps.get(key, -1), record.history.step.num)
    return steps


def payloads(path: Path) -> Iterator[bytes]:
    """Yield the complete records of a log: pieces are joined, and a torn end is left out."""
    data = path.read_bytes()
    place, pieces = 7, b""  # after the header: name, magic number, version
    while place < len(data):
        if BLOCK - place % BLOCK < 7:  # no room for a piece: the block ends in padding
            place += BLOCK - place % BLOCK
            continue
        if place + 7 > len(data):
            return
        checksum, length, kind = struct.unpack("<IHB", data[place : place + 7])
        body = data[place + 7 : place + 7 + length]
        if checksum != zlib.crc32(bytes([kind]) + body):
            return
        place += 7 + length
        pieces = body if kind in (FULL, FIRST) else pieces + body
        if kind in (FULL, LAST):
            yield pieces
