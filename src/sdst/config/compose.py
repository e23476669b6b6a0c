"""Composing a run's configuration from ``conf/`` and overrides, and explaining what Hydra refuses."""

from __future__ import annotations

import re
import warnings
from dataclasses import is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.plain_text import as_typed
from sdst.config.schema import TrainConfig
from sdst.config.sources import use_quick_sources
from sdst.config.suggestions import meant, nearest
from sdst.errors import UserError
from sdst.files.shipped import conf_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Hydra merges conf/hydra/launcher/X.yaml onto the plugin's options of the same name. This checks names and types, but
# Hydra warns that it does so. The filter is set at import because a launcher's processes compose too.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

EXPECTED = {"Float": "a number", "Integer": "a whole number"}
"""OmegaConf's name of a type -> its name in messages."""
NO_NAME = re.compile(r"true|false|[-+]?[0-9]+(\.[0-9]*)?", flags=re.IGNORECASE)
"""Values that Hydra reads as a number or a truth value, never as the name of a choice."""


def conf_dir() -> Path:
    """The folder of ``SDST_CONF`` if it is set, else the repository's ``conf``, or the one in the installed package.

    Raises:
        UserError: It holds no train.yaml.
    """
    folder = conf_folder()
    if not (folder / "train.yaml").is_file():
        raise UserError(
            f"{folder} must hold train.yaml, which is missing; set SDST_CONF to sdst's conf folder"
        )
    return folder


@cache
def register_schema() -> None:
    """Register the schema with Hydra as ``schema``, which the defaults list of train.yaml names."""
    use_quick_sources()
    ConfigStore.instance().store("schema", node=TrainConfig)


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the configuration that ``sdst train`` uses with these overrides.

    Raises:
        UserError: An override names an unknown option, or gives a group no choice or one that it lacks.
    """
    try:
        config = _compose(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    check_keys(config)
    return config


def check_keys(config: DictConfig) -> None:
    """Refuse a key that the schema lacks; ``+key=value`` can add any key, but nothing would read it.

    The constructors of model, data module, trainer and loggers refuse unknown arguments themselves.

    Raises:
        UserError: The first unknown key.
    """
    values: Any = OmegaConf.to_container(config)
    if unknown := next(_unknown_keys(values, TrainConfig), None):
        raise _unknown_option(unknown)


def check_group_choices(overrides: Sequence[str]) -> None:
    """Refuse values such as ``levels=3`` or ``logger=null``, for which Hydra raises a ValueError that names no group.

    Raises:
        UserError: A group has a value that cannot be the name of a choice.
    """
    groups = group_choices()
    for override in overrides:
        group, _, value = override.lstrip("+").partition("=")
        for choice in value.strip("[]").split(",") if group in groups else ():
            if choice.lower() in ("null", ""):
                without = "; without a logger, the CSV log is still written" if group == "logger" else ""
                raise UserError(
                    f"{override}: a group needs a choice; choose from {', '.join(groups[group])}{without}, "
                    f"or leave {group}= out for its default"
                )
            if NO_NAME.fullmatch(choice):
                raise _not_a_choice(group, choice, groups[group])


def group_choices() -> dict[str, list[str]]:
    """The groups of the configuration folder that users choose from, with their choices."""
    folder = conf_dir()
    return {
        group.name: sorted(file.stem for file in group.glob("*.yaml"))
        for group in sorted(folder.iterdir())
        if group.is_dir() and group.name != "hydra" and "_on_" not in group.name  # chosen by other groups
    }


def explain(error: HydraException | OmegaConfBaseException) -> UserError:
    """Turn an error in overrides or files into one line that names what was expected, and what may have been meant."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_choice(error)
    message = explain_plainly(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override or message)
    if unknown := re.match(r"Could not override '([^']+)'", message):
        inner = getattr(error.__cause__, "full_key", None) or ""  # of the option that a value in braces names
        key = unknown[1].partition("@")[0]
        return _unknown_option(inner if inner.startswith(f"{key}.") else key)
    if unknown := re.match(r"Could not delete from config. '([^']+)'", message):
        return _unknown_option(unknown[1])
    if twice := re.match(
        r"Multiple values for (\S+)\. To override a value use 'override [^:]+: ([^']*)'", message
    ):
        group, choice = twice[1], twice[2]
        return UserError(
            f"{group} has two choices; write {group}={choice} without +, or in a file of conf/ "
            f"'override /{group}: {choice}'"
        )
    if added := re.match(r"Could not append to config. An item is already at '([^']+)'", message):
        return UserError(f"+{added[1]}: this option exists already; write {added[1]}=VALUE without +")
    if named := re.match(r"Error resolving interpolation '(\$\{.*?)'", message):
        groups = " and ".join(re.findall(r"\$\{(\w+)\}", named[1]))
        return UserError(
            f"{groups} need one choice each, because {named[1]} is a file of conf/; give GROUP=CHOICE"
        )
    if several := re.match(r"Ambiguous value for argument '(([^=']+)=([^']*))'", message):
        return UserError(
            f"{several[1]}: several values need -m, which trains once with each; a list is {several[2]}=[{several[3]}]"
        )
    merged = re.match(r"Error merging override (.*)", message)
    cause = error.__cause__ if merged else error
    if isinstance(cause, OmegaConfBaseException):
        return UserError(_bad_value(cause, merged[1] if merged else ""))
    return UserError(message)


def explain_plainly(error: BaseException) -> str:
    """The message of an OmegaConf error in one line, without its list of types."""
    return " ".join(str(error).split()).split(" full_key:")[0]


def _compose(overrides: Sequence[str], *, with_hydra: bool = False) -> DictConfig:
    check_group_choices(overrides)
    register_schema()
    instance = GlobalHydra.instance()
    outer = instance.hydra  # within a job, Hydra is in use
    instance.clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
            return hydra.compose("train", list(overrides), return_hydra_config=with_hydra)
    finally:
        instance.hydra = outer


def _unknown_keys(values: dict[str, Any], section: type) -> Iterator[str]:
    types = _types(section)
    for key, value in values.items():
        if key not in types:
            yield key
        elif is_dataclass(types[key]) and isinstance(value, dict):
            yield from (f"{key}.{name}" for name in _unknown_keys(value, types[key]))


@cache
def _types(section: type) -> dict[str, Any]:
    return get_type_hints(section)


def _unknown_option(key: str) -> UserError:
    """An option that the configuration lacks, with what it may have been meant to be, or the choice that brings it."""
    groups = group_choices()
    if owners := _owners(key, groups):
        return UserError(f"'{key}' belongs to {' or '.join(owners)}; choose that, or remove {key}")
    options = [name for name in sorted(_names([])) if name not in groups]
    section = key.rpartition(".")[0]
    beside = [name for name in options if section and name.rpartition(".")[0] == section]
    if suggestions := meant(key, options, groups):
        hint = f"did you mean {' or '.join(suggestions)}?"
    elif beside:
        hint = f"choose from {', '.join(beside)}"
    else:
        hint = "sdst train --cfg job shows all options"
    return UserError(f"unknown option '{key}'; {hint}")


def _names(overrides: Sequence[str]) -> set[str]:
    """Keys of all options that take a value, and the groups in use."""
    return _names_in(conf_dir(), *overrides)


@cache
def _names_in(_folder: Path, *overrides: str) -> set[str]:
    config: Any = OmegaConf.to_container(_compose(overrides, with_hydra=True))
    groups = config.pop("hydra")["runtime"]["choices"]
    return {*_keys(config, ""), *groups}


def _owners(key: str, groups: dict[str, list[str]]) -> list[str]:
    """The choices, such as ``model=sdst``, that have an option or group which others of their group lack."""
    if not _is_in_a_file(key.rpartition(".")[2]):
        return []
    for group in dict.fromkeys(("attention", key.partition(".")[0], "model")):
        if group not in groups or group == key:
            continue
        owners = [choice for choice in groups[group] if key in _names_if_possible([f"{group}={choice}"])]
        if owners and len(owners) < len(groups[group]):
            return [f"{group}={choice}" for choice in owners]
    return []


def _is_in_a_file(option: str) -> bool:
    """Whether any file of the configuration has this option. Composing each choice to find out would take a second."""
    files = conf_dir().rglob("*.yaml")
    return any(re.search(rf"\b{re.escape(option)}:", file.read_text(encoding="utf-8")) for file in files)


def _names_if_possible(overrides: Sequence[str]) -> set[str]:
    try:
        return _names(overrides)
    except (HydraException, OmegaConfBaseException):  # a choice of the user's own that does not compose
        return set()


def _unknown_choice(error: MissingConfigException) -> UserError:
    """A choice that its group lacks, with the choices that it has."""
    group, _, choice = str(error.missing_cfg_file).removesuffix(".yaml").rpartition("/")
    choices = list(error.options or ())
    if not group or not choices:
        return UserError(explain_plainly(error).split(" Config search path:")[0])
    return _not_a_choice(group, choice, choices)


def _not_a_choice(group: str, choice: str, choices: Sequence[str]) -> UserError:
    near = nearest(choice, choices)
    hint = f" (did you mean {near}?)" if near else ""
    return UserError(f"{group}={choice}: unknown choice{hint}; choose from {', '.join(choices)}")


def _unreadable(override: str) -> UserError:
    """An override that is not in Hydra's grammar."""
    if "=" in override or override.startswith("~"):
        return UserError(
            f"cannot read the override {override}; write KEY=VALUE, a list as KEY=[a,b], and text with special "
            f"characters in quotes: {as_typed(override)}"
        )
    owners = [f"{group}={override}" for group, choices in group_choices().items() if override in choices]
    hint = f"did you mean {' or '.join(owners)}?" if owners else "write KEY=VALUE"
    return UserError(f"expected an override like seed=1, got '{override}'; {hint}")


def _bad_value(error: OmegaConfBaseException, override: str) -> str:
    """What an option must be, and what was found."""
    message, key = explain_plainly(error), error.full_key or override.partition("=")[0]
    if wrong := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", message):
        return f"{key} must be {EXPECTED.get(wrong[2], wrong[2])}, got '{wrong[1]}'"
    if wrong := re.match(r"Value '(.*)' is not a valid bool", message):
        return f"{key} must be true or false, got '{wrong[1]}'"
    if "nterpolation key" in message:
        return f"{message}; give the full name of an option, such as ${{paths.data}}"
    if "is not Optional" in message:
        return f"{key} must have a value, got null"
    if "is not a subclass of" in message:
        options = sorted(name for name in _names([]) if name.startswith(f"{key}."))
        return f"{key} is a section and takes no value, got '{override}'; set one of {', '.join(options)}"
    if "does not support deletion" in message:
        return f"{override}: this option cannot be removed; give it a value"
    return f"{override or key}: {message}" if override or key else message


def _keys(node: dict[str, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
