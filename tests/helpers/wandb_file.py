"""Read the file of an offline wandb run."""

import json
from pathlib import Path
from typing import Any

from sdst.training.loggers.wandb_file import payloads


class WandbFile:
    """Content of one offline run file.

    Attributes:
        run: Run record with project, group, id, name and tags.
        config: Logged configuration; the last update of each key counts.
        history: One dictionary per logged step, with wandb's own number of the step as ``_step``.
        exit_code: Exit code of the run; None if it did not end.
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
                    | {"_step": record.history.step.num}
                )
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def _update(self, config: Any) -> None:
        for item in config.update:
            self.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)

    def curve(self, name: str) -> list[float]:
        """Return the values of a metric in logged order."""
        return [row[name] for row in self.history if name in row]
