"""The schema of a training configuration, and where the configuration files are."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, InstantiationException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sdst
from sdst.data.levels import Levels
from sdst.errors import UserError
from sdst.files.yaml import read_yaml
from sdst.models.decoding import Decoding
from sdst.training.optim import Optimization
from sdst.untrusted.targets import find_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLAIN_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
}
"""Annotation of a constructor's argument -> what may be given for it, and how to say so."""


@dataclass
class LossConfig:
    """Weights of eq. 14 and the constants of the losses.

    *Reading*: the columns of Tab. G are cls, L1, sal, video, layer, IoU, act.

    Attributes:
        weights: Of each term; a term of weight 0 takes what it alone trains out of everything else.
        match_weights: Of the costs by which queries and true moments are matched.
        alpha: Share of the positives in the focal loss; null for no such balance.
        gamma: Its exponent.
        temperature: Of the contrastive losses: saliency and alignment.
    """

    weights: dict[str, float] = field(
        default_factory=lambda: {
            "cls": 1.0,
            "l1": 1.0,
            "iou": 1.0,
            "act": 1.0,
            "sal": 0.1,
            "video": 0.1,
            "layer": 0.1,
        }
    )
    match_weights: dict[str, float] = field(default_factory=lambda: {"cls": 1.0, "l1": 1.0, "iou": 1.0})
    alpha: float | None = 0.25
    gamma: float = 2.0
    temperature: float = 0.07


@dataclass
class SelectConfig:
    """Which checkpoint is the best: the one with the highest ``metric`` on ``split``.

    Attributes:
        split: ``val``, or ``test`` where there is no other.
        metric: A key of the split's metrics.
    """

    split: str = "val"
    metric: str = "MR-full-mAP"


@dataclass
class PathsConfig:
    """Where things are; the environment variables SDST_DATA, SDST_FEATURES and SDST_RUNS move them.

    Attributes:
        data: Folder of the annotations.
        features: Folder of the feature files.
        runs: Folder of the runs.
    """

    data: str = MISSING
    features: str = MISSING
    runs: str = MISSING


@dataclass
class TrainConfig:
    """Everything a run depends on.

    Attributes:
        group: What the run is a row of, such as a table's name; a sweep sets it. wandb shows its runs together.
        seed: Of initial weights, shuffling, positive clips, dropout.
        run_dir: Where the run writes. One that holds a finished run is refused.
        resume: The folder of a run to continue, or the ``latest`` unfinished one below ``paths.runs``; ``auto``
            continues ``run_dir``, begins it, or leaves it if it is finished; null begins.
        compile: Backend of ``torch.compile`` (``inductor``), or null for eager execution.
        recompute: Let training compute most activations twice instead of keeping them: four tenths of the memory for
            a quarter more time, and the same result.
        levels: Which backbone layers are used.
        loss: Loss weights and constants.
        optim: Optimizer and schedule.
        decode: From the model's output to moments.
        select: How the best checkpoint is chosen.
        model: Constructor of the model.
        data: Constructor of the data module.
        trainer: Constructor of the Lightning trainer.
        logger: Constructor of the logger.
        paths: Where things are.
    """

    group: str | None = None
    seed: int = 0
    run_dir: str = MISSING
    resume: str | None = None
    compile: str | None = None
    recompute: bool = False
    levels: Levels = field(default_factory=Levels)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: Optimization = field(default_factory=Optimization)
    decode: Decoding = MISSING
    select: SelectConfig = field(default_factory=SelectConfig)
    model: Any = MISSING
    data: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


def conf_dir() -> Path:
    """The ``conf`` folder beside ``src``; ``SDST_CONF`` names another.

    Raises:
        UserError: It is not there, as after an install that is not editable.
    """
    folder = Path(os.environ.get("SDST_CONF", Path(sdst.__file__).parents[2] / "conf"))
    if not (folder / "train.yaml").is_file():
        raise UserError(
            f"{folder}: no train.yaml here; install the cloned repository with pip install -e . or set SDST_CONF"
        )
    return folder


def register_schema() -> None:
    """Make the schema known to Hydra, as ``schema`` in the defaults list of train.yaml."""
    ConfigStore.instance().store("schema", node=TrainConfig)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that ``sdst train`` would use with these overrides; for tests and notebooks."""
    register_schema()
    with hydra.initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def quoted(value: Any) -> str:
    """A value in Hydra's override grammar, whatever characters it has."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def stored_config(path: Path) -> DictConfig:
    """The configuration of a run as its folder has it, with the defaults of options that are newer than it.

    Raises:
        UserError: The file is damaged or none of ours.
    """
    return as_config(read_yaml(path), path)


def as_config(values: dict[str, Any], source: str | Path) -> DictConfig:
    """A stored configuration, which may come from a stranger, in the schema.

    Raises:
        UserError: It does not fit the schema, or holds interpolations: ours are stored resolved, and others could
            read environment variables.
    """
    if "${" in json.dumps(values, default=str):
        raise UserError(f"{source}: holds an interpolation ${{...}}; no run stores one, do not trust it")
    try:
        config = OmegaConf.merge(OmegaConf.structured(TrainConfig), values)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        key = f"{error.full_key}: " if isinstance(error, OmegaConfBaseException) and error.full_key else ""
        raise UserError(
            f"{source}: {key}{explain_plainly(error)}; give the configuration of a run"
        ) from error
    assert isinstance(config, DictConfig)
    for key in ("model", "data", "trainer", "logger"):
        if not OmegaConf.is_dict(config._get_node(key)):
            raise UserError(f"{source}: {key} is no mapping; give the configuration of a run")
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{source}: {missing[0]} is missing; give the configuration of a run")
    return config


def build(node: DictConfig, /, **arguments: Any) -> Any:
    """Instantiate a node's ``_target_`` with further arguments.

    Raises:
        UserError: The target is none that a configuration may build, a value is of another type than the
            constructor's annotation, or the constructor refused it; as it said, or with the name of the target.
    """
    _check_types(node)
    try:
        return hydra.utils.instantiate(node, _convert_="object", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, TypeError | ValueError):
            raise UserError(f"{node['_target_']}: {error.__cause__}") from error
        raise


def _check_types(node: DictConfig) -> None:
    """Refuse a value of the wrong plain type: text like ``off`` would count as true, 2.5 fail deep inside."""
    if not OmegaConf.is_dict(node):
        raise UserError(f"{node!r} is no mapping with a _target_; name what is to be built")
    values: Any = OmegaConf.to_container(node, resolve=True)
    target = find_target(values, node._get_full_key("_target_"))
    for name, parameter in inspect.signature(target).parameters.items():
        # Our modules postpone annotations, which makes them strings; those of other packages stay unchecked.
        annotation = str(parameter.annotation)
        if name not in node:
            continue
        value, key = node[name], node._get_full_key(name)
        if annotation in PLAIN_TYPES and not _is(annotation, value):
            raise UserError(f"{key}: {value!r} must be {PLAIN_TYPES[annotation][1]}")
        if annotation == "Sequence[str]" and not (
            OmegaConf.is_list(value) and all(_is("str", item) for item in value)
        ):
            raise UserError(f"{key}: {value!r} must be a list of names, like [a,b]")


def _is(annotation: str, value: object) -> bool:
    """Whether the value is of the annotated plain type; a bool is no number."""
    types, _ = PLAIN_TYPES[annotation]
    return isinstance(value, types) and isinstance(value, bool) == (annotation == "bool")


def explain(error: HydraException | OmegaConfBaseException) -> UserError:
    """One line for an error in the overrides or files, with the nearest option where one is unknown."""
    message = explain_plainly(error)
    unknown = re.match(r"Could not override '([^']+)'", message)
    if unknown is None:
        return UserError(message)
    key = unknown[1]
    known = list(_keys(OmegaConf.to_container(compose()), ""))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "sdst train --cfg job shows all options"
    return UserError(f"unknown override '{key}'; {hint}")


def explain_plainly(error: Exception) -> str:
    """What an error of OmegaConf says, in one line without its listing of types."""
    return " ".join(str(error).split()).split(" full_key:")[0]


def _keys(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
