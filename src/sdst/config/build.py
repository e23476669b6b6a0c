"""Building the object that a configuration node names."""

from __future__ import annotations

import inspect
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sdst.errors import UserError
from sdst.untrusted.targets import find_target

PLAIN_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
}
"""Annotation of a constructor's argument -> types that it accepts, and their name in messages."""


def build(node: DictConfig, /, **arguments: Any) -> Any:
    """Instantiate a node's ``_target_`` with further arguments.

    Raises:
        UserError: The target is not one that a configuration may build, a value does not have the type of the
            constructor's annotation, or the constructor refuses it.
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
    """Refuse a value of the wrong plain type: text like ``off`` would count as true, and 2.5 would fail deep inside.

    Annotations are compared as text. Our modules postpone them, and the types that are imported for type checking
    alone, such as ``Sequence``, cannot be looked up at run time. Those of other packages stay unchecked.
    """
    if not OmegaConf.is_dict(node):
        raise UserError(f"expected a mapping with a _target_, got {node!r}; name the class to build")
    values: Any = OmegaConf.to_container(node, resolve=True)
    target = find_target(values, node._get_full_key("_target_"))
    for name, parameter in arguments_of(target).items():
        if name not in node:
            continue
        annotation, value, key = str(parameter.annotation), node[name], node._get_full_key(name)
        if annotation in PLAIN_TYPES and not _is(annotation, value):
            raise UserError(f"{key} must be {PLAIN_TYPES[annotation][1]}, got {value!r}")
        if annotation == "Sequence[str]" and not (
            OmegaConf.is_list(value) and all(_is("str", item) for item in value)
        ):
            raise UserError(f"{key} must be a list of names like [a,b], got {value!r}")
        if OmegaConf.is_dict(value) and "_target_" in value:
            _check_types(value)


def arguments_of(target: Any) -> dict[str, inspect.Parameter]:
    """Arguments of a target; a constructor with ``**options`` hands them to that of its base class."""
    if not inspect.isclass(target):
        return dict(inspect.signature(target).parameters)
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(target):
        parameters = dict(inspect.signature(base.__init__).parameters)  # type: ignore[misc]  # of the class
        found = parameters | found
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return found


def _is(annotation: str, value: object) -> bool:
    """Whether the value has the annotated plain type; true and false are not numbers."""
    types, _ = PLAIN_TYPES[annotation]
    return isinstance(value, types) and isinstance(value, bool) == (annotation == "bool")
