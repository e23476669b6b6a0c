"""Where the loggers of a stored configuration may send a run: nowhere that its owner did not name."""

from __future__ import annotations

from typing import Any

from sdst.errors import UserError

STORED = {
    "lightning.pytorch.loggers.CSVLogger": {"name", "version", "prefix", "flush_logs_every_n_steps"},
    "lightning.pytorch.loggers.TensorBoardLogger": {"name", "version", "prefix", "log_graph", "sub_dir"},
    "sdst.training.loggers.wandb_logger": {
        *("project", "group", "name", "tags", "entity", "notes", "log_model", "mode", "job_type"),
    },
}
"""Loggers that a stored configuration may build -> their options that name no server, key or file."""


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
                f"{source}: logger.{name} of this stored run must be csv, tensorboard or wandb, got {target!r}; "
                f"{advice}"
            )
        if unknown := sorted(map(str, node.keys() - {"_target_"} - STORED[target])):
            raise UserError(
                f"{source}: logger.{name}.{unknown[0]} of this stored run can name a server or a file; {advice}"
            )
