"""Where the loggers of a stored configuration may send a run: nowhere that its owner did not name."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from sdst.errors import UserError

STORED = {
    "lightning.pytorch.loggers.CSVLogger": {"name", "version", "prefix", "flush_logs_every_n_steps"},
    "lightning.pytorch.loggers.TensorBoardLogger": {"name", "version", "prefix", "log_graph", "sub_dir"},
    "sdst.training.loggers.mlflow.mlflow_logger": {
        *("runs", "experiment", "group", "name", "tags", "log_model"),
    },
    "sdst.training.loggers.tensorboard.tensorboard_logger": {"name"},
    "sdst.training.loggers.wandb.wandb_logger": {
        *("project", "group", "name", "tags", "entity", "notes", "log_model", "mode", "job_type"),
    },
}
"""Loggers that a stored configuration may build -> their options that name no server, key or file.

``runs`` of MLflow names a folder; resuming has put the user's own there.
"""
PLACES = ("name", "version", "sub_dir")
"""Options of Lightning's loggers that become folders below the run folder."""


def check_stored_loggers(loggers: dict[str, Any], source: str) -> None:
    """Refuse loggers of a stored configuration that could send a run, or its owner's key, to a stranger's server.

    Args:
        loggers: Name -> node, plain values.
        source: The run folder, for the message.

    Raises:
        UserError: A logger, or one of its options, is not in ``STORED``.
    """
    advice = "add trust=true if the run is yours, or remove it from config.yaml"
    for name, node in loggers.items():
        target = node.get("_target_") if isinstance(node, dict) else None
        if target not in STORED:
            raise UserError(
                f"{source}: logger.{name} of this stored run must be csv, mlflow, tensorboard or wandb, "
                f"got {target!r}; {advice}"
            )
        leaving = (key for key in PLACES if target.startswith("lightning.") and _leaves(node.get(key)))
        if key := next(leaving, None):
            raise UserError(
                f"{source}: logger.{name}.{key} of this stored run leads out of its folder; {advice}"
            )
        if unknown := sorted(map(str, node.keys() - {"_target_"} - STORED[target])):
            raise UserError(
                f"{source}: logger.{name}.{unknown[0]} of this stored run can name a server or a file; {advice}"
            )


def _leaves(name: object) -> bool:
    """Whether a name, used as a path, leads out of the folder that it is in. Lightning expands variables in it."""
    path = PurePath(str(name))
    return path.is_absolute() or ".." in path.parts or str(name).startswith("~") or "$" in str(name)
