"""Reads back the file that an offline wandb run writes: records in LevelDB's log format."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 1 << 15
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def payloads(path: Path) -> Iterator[bytes]:
    """The records of a log, whole: pieces of type first, middle, last are joined, checksums compared."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, pieces = 7, b""  # behind the header: name, magic number, version
    while place < len(data):
        if BLOCK - place % BLOCK < 7:  # no room for a piece: the block ends in padding
            place += BLOCK - place % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", data[place : place + 7])
        body = data[place + 7 : place + 7 + length]
        assert len(body) == length
        assert checksum == zlib.crc32(bytes([kind]) + body)
        place += 7 + length
        pieces = body if kind in (FULL, FIRST) else pieces + body
        if kind in (FULL, LAST):
            yield pieces


class WandbFile:
    """What one offline run file says.

    Attributes:
        run: Project, group, id, name, tags: the run record.
        config: The logged configuration, of the last update of each key.
        history: One dictionary per logged step.
        exit_code: As which the run ended; None where it did not end.
    """

    def __init__(self, path: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.run: Any = None
        self.config: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.exit_code: int | None = None
        for payload in payloads(path):
            record = wandb_internal_pb2.Record.FromString(payload)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self._update(record.run.config)
            elif kind == "config":
                self._update(record.config)
            elif kind == "history":
                items = record.history.item
                self.history.append(
                    {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                )
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def _update(self, config: Any) -> None:
        for item in config.update:
            self.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)

    def curve(self, name: str) -> list[float]:
        """The values of a metric in the order they were logged."""
        return [row[name] for row in self.history if name in row]
