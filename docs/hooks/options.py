"""Generates the page of all options of ``sdst train`` from the schema, the constructors' docstrings and ``conf``."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from griffe import Docstring, DocstringSectionKind
from mkdocs.structure.files import File
from omegaconf import OmegaConf

from sdst.config.build import arguments_of
from sdst.config.compose import compose, conf_dir, group_choices
from sdst.config.schema import TrainConfig
from sdst.untrusted.targets import find_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from omegaconf import DictConfig

GROUPS = {
    "model": "`model=NAME` selects another method, with its losses and decoding.",
    "data": "`data=NAME` selects another data set, with its schedule.",
    "logger": "`logger=NAME` or `logger=[NAME,NAME]` selects where a run's curves are logged.",
}
"""Configuration groups whose choices are described one by one, and the sentence that introduces them."""
DESCRIBED = (DocstringSectionKind.attributes, DocstringSectionKind.parameters)
LAUNCHER_NOTE = "`hydra/launcher=NAME` selects how several runs are started."


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, "options.md", content=page()))
    return files


def page() -> str:
    """The page in Markdown."""
    default = compose()
    parts = [
        "# All options",
        "Generated from the schema in `src/sdst/config/schema.py`, the docstrings of the classes built, and `conf/`. "
        "Set any option on the command line as `key=value`. The defaults are those of `sdst train` without "
        "arguments, SDST on QVHighlights; the choices of groups change several at once.",
        "## Choices",
        "`GROUP=CHOICE` selects a file of `conf/GROUP`. `attention` and `order` belong to `model=sdst`.",
        _choices_table(),
        "## The run",
        _table(_schema_rows(TrainConfig, default, "")),
    ]
    for field in fields(TrainConfig):
        section = default[field.name]
        if not OmegaConf.is_dict(section):
            continue
        parts.append(f"## {field.name}")
        schema = OmegaConf.get_type(section)
        if is_dataclass(schema):
            parts += [_summary(schema), _table(_schema_rows(schema, section, f"{field.name}."))]
        else:
            parts.append(_built(section, field.name))
        if field.name in GROUPS:
            parts.append(GROUPS[field.name])
            parts += [_choice(default, field.name, name) for name in _names(conf_dir() / field.name)]
    parts += ["## Launchers", LAUNCHER_NOTE]
    for path in sorted((conf_dir() / "hydra" / "launcher").glob("*.yaml")):
        parts += [f"### hydra/launcher={path.stem}", f"```yaml\n{path.read_text(encoding='utf-8')}```"]
    return "\n\n".join(parts) + "\n"


def _choices_table() -> str:
    """Every group with its choices, and the comment at the head of each file."""
    rows = ["| group | choice | |", "|---|---|---|"]
    for group, choices in group_choices().items():
        for choice in choices:
            about = _about(conf_dir() / group / f"{choice}.yaml")
            rows.append(f"| `{group}` | `{choice}` | {about} |")
    return "\n".join(rows)


def _about(path: Path) -> str:
    """The comments at the head of a file of a group."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("# ") and "@package" not in line)


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _schema_rows(schema: Any, section: Any, prefix: str) -> Iterator[tuple[str, str, Any, str]]:
    """Key, type, default and meaning of the values of a schema dataclass, without nested ones."""
    meanings = _meanings(schema)
    values = OmegaConf.to_container(section, resolve=False)
    for field in fields(schema):
        if not (schema is TrainConfig and OmegaConf.is_dict(section[field.name])):
            yield prefix + field.name, str(field.type), values[field.name], meanings[field.name]


def _built(node: Any, key: str) -> str:
    """The class built for a configuration node and a table of its arguments, or those of each named node in it."""
    if "_target_" not in node:
        return "\n\n".join(_built(node[name], f"{key}.{name}") for name in node)
    values = OmegaConf.to_container(node, resolve=False)
    target = find_target(OmegaConf.to_container(node, resolve=True), key)
    parameters = arguments_of(target)
    meanings = _meanings(target)
    if inspect.isclass(target):
        for base in inspect.getmro(target)[1:]:  # our constructors may hand options to their base class
            if base.__module__.startswith("sdst."):
                meanings = _meanings(base) | meanings
        meanings = _meanings(target.__init__) | meanings
    comments = _comments(conf_dir() / key.partition(".")[0])
    rows = (
        (f"{key}.{name}", _annotation(parameters[name], value), value, comments.get(name) or meanings[name])
        for name, value in values.items()
        if name != "_target_" and not _is_built(value)
    )
    nested = [
        f"`{key}.{name}`: {_built(node[name], f'{key}.{name}')}"
        for name, value in values.items()
        if _is_built(value)
    ]
    return "\n\n".join([f"Builds `{values['_target_']}`: {_summary(target)}\n\n{_table(rows)}", *nested])


def _is_built(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _choice(default: DictConfig, group: str, name: str) -> str:
    """A choice of a group: the class it builds, if not the default one, and the values it sets."""
    chosen = compose([f"{group}={name}"])
    heading = f"### {group}={name}"
    about = _about(conf_dir() / group / f"{name}.yaml")
    other = _other_nodes(chosen[group], default[group], group)
    built = "\n\n".join(_built(node, key) for key, node in other.items())
    before, after = _leaves(default), _leaves(chosen)
    changed = [
        f"- `{key}={_shown(value)}`"
        for key, value in after.items()
        if before.get(key, "absent") != value and not any(key.startswith(f"{node}.") for node in other)
    ]
    effect = "It sets\n\n" + "\n".join(changed) if changed else ""
    if name == _default_choice(group):
        effect = "The default."
    return "\n\n".join(part for part in (heading, about, built, effect) if part)


def _other_nodes(chosen: Any, default: Any, key: str) -> dict[str, Any]:
    """The nodes of a choice, by key, that build another class than the default choice does."""
    if "_target_" in chosen:
        return {key: chosen} if chosen._target_ != default._target_ else {}
    return {f"{key}.{name}": chosen[name] for name in chosen if name not in default}


def _default_choice(group: str) -> str:
    """The file of a group that the defaults list of ``train.yaml`` names."""
    entries = OmegaConf.load(conf_dir() / "train.yaml").defaults
    return next(str(entry[group]) for entry in entries if OmegaConf.is_dict(entry) and group in entry)


def _leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every value of a configuration by its full key, with interpolations unresolved."""
    found: dict[str, Any] = {}
    for key, value in OmegaConf.to_container(config, resolve=False).items():
        if isinstance(value, dict):
            found |= _leaves(OmegaConf.create(value), f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _meanings(documented: Any) -> Mapping[str, str]:
    """Descriptions of attributes or arguments in a docstring; only the first sentence if it is another project's."""
    sections = Docstring(inspect.getdoc(documented) or "", parser="google").parse(warnings=False)
    ours = documented.__module__.partition(".")[0] == "sdst"
    return {
        item.name: " ".join(item.description.split()) if ours else _first_sentence(item.description)
        for section in sections
        if section.kind in DESCRIBED
        for item in section.value
    }


def _first_sentence(text: str) -> str:
    """Shortens another project's text, which may have several paragraphs."""
    return re.split(r"(?<=[.!])\s", " ".join(text.split()), maxsplit=1)[0]


def _comments(folder: Path) -> dict[str, str]:
    """Comments after values in a group's default file, which describe what our configuration does with them."""
    lines = (
        (folder / "default.yaml").read_text(encoding="utf-8") if (folder / "default.yaml").exists() else ""
    )
    return dict(re.findall(r"^(\w+): \S+ +# (.+)$", lines, flags=re.MULTILINE))


def _summary(documented: Any) -> str:
    text = inspect.getdoc(documented) or inspect.getdoc(documented.__init__) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def _annotation(parameter: inspect.Parameter, value: Any) -> str:
    """An argument's type; for another project's, whose unions fill lines, the type of the default."""
    annotation = parameter.annotation
    return annotation if isinstance(annotation, str) else type(value).__name__


def _table(rows: Iterable[tuple[str, str, Any, str]]) -> str:
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for key, kind, value, meaning in rows:
        cells = (f"`{key}`", f"`{kind}`" if kind else "", f"`{_shown(value)}`", meaning)
        lines.append(f"| {' | '.join(cells)} |")  # within code, | needs no escape
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A value as typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return f"[{','.join(map(_shown, value))}]" if isinstance(value, list) else str(value)
