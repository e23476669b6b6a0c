"""YAML files of runs and experiments, which may come from strangers: read as plain values, or refused in one line."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from sdst.errors import UserError
from sdst.files.text import read_text

MOST_BYTES = 2**20
"""Largest file read; our configurations have a few thousand bytes."""
DEEPEST = 20
"""Most levels of nested mappings and lists."""
FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C, if PyYAML was built with it."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a file, as plain values; interpolations like ``${seed}`` stay text.

    Raises:
        UserError: The file cannot be read, is not a mapping, repeats a key, has an alias, or is too large or too deep.
    """
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path}: larger than {MOST_BYTES} bytes, too large for a configuration; check the path"
            )
        text = read_text(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return parse_yaml(text, path)


def parse_yaml(text: str, source: str | Path) -> dict[str, Any]:
    """The mapping in a text, see :func:`read_yaml`; ``source`` names it in messages.

    Raises:
        UserError: It is not a mapping, repeats a key, has an alias, or is too deep.
    """
    try:
        _require_flat(text, source)
        content = deepcopy(_parse(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"{source}: not the YAML of a configuration ({reason}); correct it") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{source}: must be a mapping of names; write 'name: value' pairs")
    return content


class _Loader(FASTEST):  # type: ignore[misc]
    """OmegaConf's own loader on the parser in C, which takes a tenth of the time."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; a repeated key, or one without a name, is refused."""
        names = [key.value for key, _ in node.value if key.tag == self.DEFAULT_SCALAR_TAG]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise yaml.constructor.ConstructorError(
                "while constructing a mapping", node.start_mark, f"found duplicate key {repeated}"
            )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if None in mapping:
            raise yaml.constructor.ConstructorError(
                "while constructing a mapping", node.start_mark, "found a key without a name"
            )
        return mapping


@lru_cache(maxsize=256)  # the runs of a report share few configurations, and parsing one takes a millisecond
def _parse(text: str) -> Any:
    content = yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader
    if isinstance(content, dict) and "${" not in text and "!" not in text:
        return content
    # OmegaConf checks interpolations and tags, and decides what an empty file means.
    return OmegaConf.to_container(OmegaConf.create(text))


def _require_flat(text: str, path: str | Path) -> None:
    """Refuse text that grows when it is read: an alias repeats a whole tree, and each level takes stack."""
    depth = 0
    for event in yaml.parse(text, Loader=FASTEST):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise UserError(
                f"{path}: line {event.start_mark.line + 1}: has an alias or more than {DEEPEST} levels; "
                "write the values out"
            )
