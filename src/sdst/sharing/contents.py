"""The files of a shared model, made from a finished run: nothing in them names the machine that trained it."""

from __future__ import annotations

import json
import logging
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sdst.data.annotations import of_domain, read_annotations
from sdst.data.words import words_of
from sdst.errors import UserError
from sdst.plotting.predictions import plot_predictions
from sdst.sharing.card import write_card
from sdst.training import checkpoint
from sdst.untrusted.checkpoint import VERSION
from sdst.untrusted.shared_files import CARD, CONFIG, METRICS, PICTURE, RECIPE, WEIGHTS, WORDS

if TYPE_CHECKING:
    from torch import nn

    from sdst.training.run_folder import RunFolder
    from sdst.types import Record

logger = logging.getLogger(__name__)

SHARED_METRICS = ("dataset", "simulated", "epochs", "selected", "best")
"""Keys of metrics.json that do not depend on the machine."""
OF_THE_MACHINE: dict[str, Any] = {
    "group": None,
    "name": None,
    "tags": [],
    "run_dir": ".",
    "resume": None,
    "callbacks": {},
    "logger": {},
    "paths": {"data": ".", "features": ".", "runs": "."},
}
"""Key of the configuration -> the value that replaces it, because it names folders or accounts."""
DRAWN = 2
"""Queries in the picture, the first of the split that selected the checkpoint."""


def collect(run: RunFolder, title: str, license_id: str | None) -> dict[str, bytes]:
    """Name -> content of all files of the run's best model.

    The same run gives the same bytes. Words and picture are left out, with a warning, where the run's annotations or
    matplotlib are missing.

    Args:
        run: A finished run.
        title: Title of the model card.
        license_id: Licence of the weights, for the card. None means this package's licence if the model was trained
            only on what comes with the package, and "unknown" otherwise.

    Raises:
        UserError: The run is not finished, its files are damaged, or its model's options name a file.
    """
    metrics = {key: value for key, value in run.metrics().items() if key in SHARED_METRICS}
    model, config, recipe = checkpoint.load(run.best)
    config = shared_config(config)
    files = {
        WEIGHTS: _weights(model),
        CONFIG: yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode(),
        RECIPE: _json({"version": VERSION, "recipe": recipe}),
        METRICS: _json(metrics),
    }
    domain = run.config().data.get("domain")
    if (records := _annotated(run, "train", domain)) is not None:
        files[WORDS] = "".join(
            f"{word}\n" for word in sorted(words_of(record.query for record in records))
        ).encode()
    if (picture := _picture(run, metrics["selected"]["split"], domain, recipe)) is not None:
        files[PICTURE] = picture
    facts = {
        "commit": run.facts().get("git") or {},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    card = write_card(title, license_id, config, recipe, metrics, facts, with_picture=PICTURE in files)
    files[CARD] = card.encode()
    return files


def shared_config(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved configuration without folders, loggers and whatever else belongs to one machine.

    Raises:
        UserError: An option of the model, which must stay, names a file.
    """
    if named := [text for text in _texts(config["model"]) if _is_path(text)]:
        raise UserError(
            f"model: must not name a file of this machine to be shared, got {named[0]!r}; train without that option"
        )
    shared = {key: _without_paths(value) for key, value in config.items()} | OF_THE_MACHINE
    shared["data"] |= {"annotations": {}, "features": None}
    return shared


def _weights(model: nn.Module) -> bytes:
    """The weights as safetensors, in their own precision."""
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise UserError(
            "sdst push needs safetensors, which is not installed; pip install 'sdst[hub]'"
        ) from error
    # Copies, because the format cannot store one tensor under two names.
    return save({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()})


def _annotated(run: RunFolder, split: str, domain: str | None) -> list[Record] | None:
    """The run's records of a split, or None with a warning if its annotations are not where they were."""
    try:
        path = run.annotations_path(split)
        return of_domain(read_annotations(path).records, domain, path)
    except UserError as error:
        lacking = "words of the training queries" if split == "train" else "picture"
        logger.warning("shared without %s: %s", lacking, error)
        return None


def _picture(run: RunFolder, split: str, domain: str | None, recipe: dict[str, Any]) -> bytes | None:
    """A PNG of the first predictions of a split; None with a warning if it cannot be drawn."""
    if find_spec("matplotlib") is None:
        logger.warning("shared without picture: matplotlib is not installed; pip install 'sdst[plot]'")
        return None
    records = _annotated(run, split, domain)
    if records is None or not run.predictions_path(split).is_file():
        return None
    predictions = {prediction.qid: prediction for prediction in run.predictions(split)}
    shown = [record for record in records if record.qid in predictions][:DRAWN]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PICTURE
        note = "SIMULATED features" if recipe["simulated"] else ""
        answers = [predictions[record.qid] for record in shown]
        plot_predictions(answers, shown, path, recipe["clip_seconds"], note)
        return path.read_bytes()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _without_paths(value: Any) -> Any:
    """A copy of plain values with None in place of every path."""
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return None if isinstance(value, str) and _is_path(value) else value


def _texts(value: Any) -> list[str]:
    """All texts at any depth of plain values."""
    if isinstance(value, dict | list):
        return [
            text for item in (value.values() if isinstance(value, dict) else value) for text in _texts(item)
        ]
    return [value] if isinstance(value, str) else []


def _is_path(text: str) -> bool:
    """Whether a text may be a path or an address; no other option of a training has a slash."""
    return "/" in text or "\\" in text
