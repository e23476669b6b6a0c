"""Building the object that a configuration node names."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sdst.errors import UserError
from sdst.untrusted.targets import find_target

if TYPE_CHECKING:
    pass


PLAIN_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
}
"""Annotation of a constructor's argument -> what may be given for it, and how to say so."""


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
