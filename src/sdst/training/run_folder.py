"""The run folder: the names of its files, and their readers. Imports neither torch nor Lightning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdst.data.predictions import read_predictions
from sdst.errors import UserError
from sdst.files.locks import lock
from sdst.files.yaml import read_yaml
from sdst.untrusted.hub import download, is_address
from sdst.untrusted.shared_files import READ, is_shared_model

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sdst.types import Prediction

Status = Literal["finished", "failed", "missing"]
"""State of a run on disk; a run that was not started or not finished is missing."""

LAST = Path("checkpoints/last.ckpt")
"""Everything that resuming needs, written after every epoch."""
BEST = Path("checkpoints/best.ckpt")
"""The weights of the best epoch."""
FACTS = {"dataset": str, "simulated": bool, "epochs": int, "selected": dict, "best": dict}
"""Keys of every metrics.json that commands rely on -> their types."""


class RunFolder:
    """The files of one run. Nothing needs to exist yet.

    Args:
        path: The run folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.facts_path = self.path / "run.json"
        self.metrics_path = self.path / "metrics.json"
        self.nonfinite_path = self.path / "nonfinite.json"
        self.failed_path = self.path / "failed.txt"
        self.lock_path = self.path / "run.lock"
        self.csv_path = self.path / "csv"
        self.last = self.path / LAST
        self.best = self.path / BEST

    @classmethod
    def of(cls, path: str | Path) -> RunFolder:
        """The run folder that a path names: the folder itself, or one of its checkpoints."""
        path = Path(path)
        return cls(path.parents[1] if path.is_file() and path.parent.name == BEST.parent.name else path)

    @property
    def is_begun(self) -> bool:
        """Whether a run was started here: its configuration is the first file written."""
        return self.config_path.is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished: its metrics are the last file written."""
        return self.metrics_path.is_file()

    @property
    def is_running(self) -> bool:
        """Whether a process trains the run and holds its lock; a killed run leaves the lock's file, not the lock."""
        try:
            with self.lock_path.open("rb") as file:
                return not lock(file, shared=True)
        except OSError:
            return False

    @property
    def status(self) -> Status:
        """State of the run, from the files that end it."""
        if self.is_finished:
            return "finished"
        return "failed" if self.failed_path.is_file() else "missing"

    def failure(self) -> str:
        """First line of the reason why the run failed, or last line of its traceback; "" if it did not fail."""
        if not self.failed_path.is_file():
            return ""
        lines = self.failed_path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
        return lines[-1] if lines[0].startswith("Traceback") else lines[0]

    def predictions_path(self, split: str) -> Path:
        """The submission file of a split."""
        return self.path / f"{split}_submission.jsonl"

    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json.

        Raises:
            UserError: The run is not finished, or the file is damaged or lacks what every run writes.
        """
        if not self.is_finished:
            raise UserError(
                f"{self.path}: not a finished run (metrics.json is missing); give a finished run's folder"
            )
        content = _read_json(self.metrics_path)
        if missing := next(
            (key for key, kind in FACTS.items() if not isinstance(content.get(key), kind)), None
        ):
            raise UserError(
                f"{self.metrics_path}: damaged, '{missing}' is missing or of another type; "
                "remove the run folder and train again"
            )
        return content

    def facts(self) -> dict[str, Any]:
        """The content of run.json: commit, versions, machine, parameters, features; empty without the file.

        Raises:
            UserError: The file is damaged.
        """
        return _read_json(self.facts_path) if self.facts_path.is_file() else {}

    def config(self) -> DictConfig:
        """The run's configuration in the schema.

        Raises:
            UserError: The file is missing, damaged, or not the configuration of a run.
        """
        # Imported here because Hydra takes a second, and commands that read only metrics do not need it.
        from sdst.config.stored import stored_config

        return stored_config(self.config_path)

    def plain_config(self) -> dict[str, Any]:
        """The run's configuration as stored, without the schema, which needs Hydra.

        Raises:
            UserError: The file is missing or damaged.
        """
        return read_yaml(self.config_path)

    def annotations_path(self, split: str) -> Path:
        """The annotation file of a split.

        Raises:
            UserError: The configuration cannot be read, or the annotation file is missing.
        """
        config: Any = self.plain_config()
        try:
            named = config["data"]["annotations"][split]
        except (LookupError, TypeError):
            named = None
        if not isinstance(named, str) or not Path(named).is_file():
            raise UserError(
                f"{self.path}: annotations of split {split} not found at {named}; give the file with --annotations"
            )
        return Path(named)

    def predictions(self, split: str) -> list[Prediction]:
        """The predictions of a split by the best checkpoint.

        Raises:
            UserError: The file is missing or damaged.
        """
        return read_predictions(self.require_predictions(split))

    def require_predictions(self, split: str) -> Path:
        """The submission file of a split, which must exist.

        Raises:
            UserError: It is missing; the message names the run's splits.
        """
        path = self.predictions_path(split)
        if not path.is_file():
            splits = ", ".join(self.metrics()["best"])
            raise UserError(f"{path}: no predictions on this split; choose --split from {splits}")
        return path


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path names: the file itself, the best one of a run folder, or a shared model.

    A model of the Hub (``hf://user/name``) is downloaded, unless the cache has it.

    Raises:
        UserError: The folder has no best checkpoint, or the Hub gives no access.
    """
    if is_address(path):
        return download(str(path), READ)
    path = Path(path)
    if not path.is_dir() or is_shared_model(path):
        return path
    best = RunFolder(path).best
    if not best.is_file():
        raise UserError(
            f"{path}: expected a checkpoint, or a folder of sdst push, or a run folder with {BEST}, which is missing; "
            "check the path"
        )
    return best


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); remove the run folder and train again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged (not a JSON object); remove the run folder and train again")
    return content
