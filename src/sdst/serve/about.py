"""What the page says about the model: its name, its training, its metrics, the words it knows, and example queries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.features.backbone.sizes import SHIPPED
from sdst.files.yaml import read_yaml
from sdst.inference.commands import SMALL_WORLD as SMALL_WORLD_MODEL
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdst.inference.grounder import Grounder

logger = logging.getLogger(__name__)

EXAMPLES = 5
LONGEST_EXAMPLE = 60  # characters
SMALL_WORLD = (
    "A red disc moves left.",
    "A blue star bounces.",
    "The green ring circles clockwise.",
    "A yellow square falls slowly.",
    "The white cross pulses.",
)
"""Example queries for the small world, if the annotations of the training are not at hand."""


def describe_model(checkpoint: str | Path, grounder: Grounder) -> dict[str, Any]:
    """The model as plain values; what is not known is None.

    Args:
        checkpoint: The run folder or checkpoint that was loaded.
        grounder: The loaded model.
    """
    run, recipe = RunFolder.of(checkpoint), grounder.recipe
    data = _readable(lambda: read_yaml(run.config_path).get("data")) if run.is_begun else {}
    metrics = _readable(run.metrics) if run.is_finished else {}
    git = _readable(run.facts).get("git")
    return {
        "name": "the small world's model"
        if run.path == SMALL_WORLD_MODEL
        else "/".join(run.path.resolve().parts[-2:]),
        "dataset": data.get("name"),
        "backbone": recipe["backbone"],
        "clip_seconds": recipe["clip_seconds"],
        "longest_seconds": recipe["max_clips"] * recipe["clip_seconds"],
        "commit": git.get("commit") if isinstance(git, dict) else None,
        "metrics": _selected(metrics),
        "words": _words(grounder),
        "examples": _examples(run) or (list(SMALL_WORLD) if recipe["backbone"] == "small-world" else []),
    }


def _selected(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """The metrics of the split that selected the checkpoint, in %; None without metrics."""
    if not metrics:
        return None
    split, selected = (metrics["selected"].get(key) for key in ("split", "metric"))
    return {"split": split, "selected": selected, "values": metrics["best"].get(str(split), {})}


def _words(grounder: Grounder) -> list[str] | None:
    """Words of the training if the model lists them, or of a backbone that comes with the package; otherwise None."""
    listed, backbone = grounder.words, grounder.recipe["backbone"]
    if listed is not None:
        return sorted(listed)
    if backbone not in SHIPPED:
        return None
    lines = (SHIPPED[backbone] / "vocab.txt").read_text(encoding="utf-8").split()
    return [line for line in lines if line.isalpha()]


def _examples(run: RunFolder) -> list[str]:
    """Short queries from the annotations of the training, evenly spread; none without the file."""
    try:
        records = read_annotations(run.annotations_path("train")).records if run.is_begun else []
    except UserError:
        return []
    queries = [
        query for query in dict.fromkeys(record.query for record in records) if len(query) <= LONGEST_EXAMPLE
    ]
    return queries[:: max(1, len(queries) // EXAMPLES)][:EXAMPLES]


def _readable(read: Callable[[], Any]) -> dict[str, Any]:
    """A mapping from the run folder. A damaged file only costs a warning, because answers do not need it."""
    try:
        content = read()
    except UserError as error:
        logger.warning("%s", error)
        return {}
    return content if isinstance(content, dict) else {}
