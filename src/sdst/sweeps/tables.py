"""The paper's tables and figures as data: ``experiments/*.yaml`` has what to run per row, and the printed numbers.

A file has exactly these keys::

    title: what the table compares
    source: place in the paper, "Tab. 3"
    selection: how the paper chose the checkpoint, as far as it says
    notes: [doubts about the whole table]                        # optional
    scales:                                                      # Hydra overrides of each data set, per scale
      paper: {qvhighlights: [data=qvhighlights]}
      laptop: {qvhighlights: [data=world]}                       # a data set may be absent at this scale
    columns:                                                     # blocks of columns, left to right
      - title: printed header above them, "" for none
        dataset: data set of the numbers, null for all
        split: val, test, or null if the numbers do not depend on a split
        metrics: {printed header: key in our results, or null}
    rows:
      - label: as printed
        overrides: [attention=standard]                          # [] is SDST itself; a row without it is not run
        paper: ["70.77", null]                                   # cells as printed, one per column; null is missing
        note: a doubt about this row                             # optional
        only: paper                                              # optional: the one scale to run at; the note says why

``scales`` may have ``rehearsal`` too; without it, the rehearsal adds ``scale=rehearsal`` to the paper's overrides.
A key in our results is one of a run's metrics, such as ``MR-full-mAP``, or one of ``RUN_FACTS``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdst.errors import UserError
from sdst.files.shipped import shipped_folder
from sdst.files.yaml import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SCALES = ("paper", "rehearsal", "laptop")
RUN_FACTS = ("parameters.total", "peak_memory_gb", "steps_per_second")
"""Keys of columns that are facts of a run instead of metrics: trainable parameters, memory in GB, training speed."""

_NUMBER = r"\d+(?:\.\d+)?"
_PRINTED = re.compile(rf"{_NUMBER}(?: ?M| ± {_NUMBER}| \([+-]{_NUMBER}\))?")
_OVERRIDE = re.compile(r"[^\s=]+=\S+")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of numbers: its block's title, data set and split, its printed ``header`` and our ``key``."""

    title: str
    header: str
    key: str | None
    dataset: str | None
    split: str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row; ``overrides`` is None if the row is not run, ``paper`` has one cell per column (:func:`number`)."""

    label: str
    overrides: tuple[str, ...] | None
    paper: tuple[str | None, ...]
    note: str | None
    only: str | None = None

    def is_run_at(self, scale: str) -> bool:
        """Whether the row is trained at a scale; the rehearsal has the paper's rows."""
        return self.overrides is not None and self.only in (None, "paper" if scale == "rehearsal" else scale)


@dataclass(frozen=True, slots=True)
class Job:
    """A training that a row needs, once per seed; the overrides of the data set come first."""

    label: str
    dataset: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One table or figure; the attributes are the keys of its file, and ``name`` is the file's name.

    ``columns`` are single columns, not blocks, and ``scales`` maps a scale and a data set to overrides.
    """

    name: str
    title: str
    source: str
    selection: str
    notes: tuple[str, ...]
    scales: Mapping[str, Mapping[str, tuple[str, ...]]]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def jobs(self, scale: str) -> list[Job]:
        """List the trainings at a scale: every row that is run, on every data set."""
        return [
            Job(row.label, dataset, (*overrides, *row.overrides))
            for row in self.rows
            if row.overrides is not None and row.is_run_at(scale)
            for dataset, overrides in self.scales[scale].items()
        ]


def number(cell: str | None) -> float | None:
    """Read the number of a printed cell, without unit, deviation or difference; None for a missing cell."""
    match = None if cell is None else re.match(_NUMBER, cell)
    return None if match is None else float(match[0])


def experiments_dir() -> Path:
    """The repository's ``experiments`` folder, or the one in the installed package."""
    return shipped_folder("experiments")


def find_experiment(name: str, folder: str | Path | None = None) -> Experiment:
    """Read an experiment by its name in a folder (:func:`experiments_dir` by default), or by its path.

    Raises:
        UserError: The experiment does not exist, or is malformed (see :func:`read_experiment`).
    """
    if name.endswith(".yaml"):
        return read_experiment(name)
    paths = {path.stem: path for path in list_experiments(folder or experiments_dir())}
    if name not in paths:
        raise UserError(f"unknown experiment {name!r}; choose from {', '.join(paths)}")
    return read_experiment(paths[name])


def list_experiments(folder: str | Path) -> list[Path]:
    """List the experiment files of a folder, sorted by name.

    Raises:
        UserError: The folder has no such file.
    """
    paths = sorted(Path(folder).glob("*.yaml"))
    if not paths:
        raise UserError(f"{folder}: no YAML file here; give the folder of the experiments, with table1.yaml")
    return paths


def read_experiment(path: str | Path) -> Experiment:
    """Read and check one file.

    Raises:
        UserError: The file cannot be read or breaks the format above.
    """
    fields = _mapping(read_yaml(path), str(path), "title source selection scales columns rows", "notes")
    scales = {
        scale: {
            dataset: _overrides(given, f"{path}: scales.{scale}.{dataset}")
            for dataset, given in _mapping(value, f"{path}: scales.{scale}").items()
        }
        for scale, value in _mapping(fields["scales"], f"{path}: scales", "paper laptop", "rehearsal").items()
    }
    rehearsed = {dataset: (*overrides, "scale=rehearsal") for dataset, overrides in scales["paper"].items()}
    scales.setdefault("rehearsal", rehearsed)
    columns = tuple(
        column
        for index, block in enumerate(_list(fields["columns"], f"{path}: columns"))
        for column in _columns(block, f"{path}: columns[{index}]")
    )
    rows = tuple(
        _row(row, len(columns), f"{path}: rows[{index}]")
        for index, row in enumerate(_list(fields["rows"], f"{path}: rows"))
    )
    labels = [row.label for row in rows]
    if len(set(labels)) < len(labels) or not labels:
        raise UserError(
            f"{path}: rows: expected one or more rows with different labels, got {len(labels)} rows with "
            f"{len(set(labels))} labels; rename or add rows"
        )
    _check_datasets(scales, columns, rows, path)
    notes = _list(fields.get("notes", []), f"{path}: notes")
    return Experiment(
        name=Path(path).stem,
        title=_text(fields["title"], f"{path}: title"),
        source=_text(fields["source"], f"{path}: source"),
        selection=_text(fields["selection"], f"{path}: selection"),
        notes=tuple(_text(note, f"{path}: notes") for note in notes),
        scales=scales,
        columns=columns,
        rows=rows,
    )


def _columns(block: Any, place: str) -> Iterable[Column]:
    fields = _mapping(block, place, "title dataset split metrics")
    title = "" if fields["title"] == "" else _text(fields["title"], f"{place}.title")
    dataset = None if fields["dataset"] is None else _text(fields["dataset"], f"{place}.dataset")
    split = fields["split"]
    if split not in ("val", "test", None):
        raise UserError(f"{place}.split must be val, test or null, got {split!r}")
    for header, key in _mapping(fields["metrics"], f"{place}.metrics").items():
        named = None if key is None else _text(key, f"{place}.metrics.{header}")
        yield Column(title, header, named, dataset, split)


def _row(row: Any, num_columns: int, place: str) -> Row:
    fields = _mapping(row, place, "label paper", "overrides note only")
    cells = _list(fields["paper"], f"{place}.paper")
    if len(cells) != num_columns:
        raise UserError(f"{place}.paper must have {num_columns} cells, one per column, got {len(cells)}")
    for index, cell in enumerate(cells):
        if cell is not None and not (isinstance(cell, str) and _PRINTED.fullmatch(cell)):
            raise UserError(
                f"{place}.paper[{index}] must be a printed number in quotes, digit for digit, or null, got {cell!r}"
            )
    only = fields.get("only")
    if "only" in fields and only not in ("paper", "laptop"):
        raise UserError(f"{place}.only must be paper or laptop, or be left out, got {only!r}")
    if "only" in fields and not {"overrides", "note"} <= set(fields):
        raise UserError(f"{place}.only needs overrides and a note with the reason; add both")
    return Row(
        _text(fields["label"], f"{place}.label"),
        _overrides(fields["overrides"], f"{place}.overrides") if "overrides" in fields else None,
        tuple(cells),
        _text(fields["note"], f"{place}.note") if "note" in fields else None,
        only,
    )


def _check_datasets(
    scales: Mapping[str, Mapping[str, Any]], columns: Iterable[Column], rows: Iterable[Row], path: str | Path
) -> None:
    """Require that a table that is run has every data set at paper scale, and no others at the other scales."""
    needed = {column.dataset for column in columns if any(row.overrides is not None for row in rows)}
    if missing := sorted(needed - {None} - set(scales["paper"]), key=str):
        raise UserError(f"{path}: scales.paper lacks '{missing[0]}', which a column names; add its overrides")
    for scale, datasets in scales.items():
        if unknown := sorted(set(datasets) - set(scales["paper"])):
            raise UserError(
                f"{path}: scales.{scale} has '{unknown[0]}', which scales.paper lacks; add it there too"
            )


def _mapping(value: Any, place: str, required: str | None = None, optional: str = "") -> dict[str, Any]:
    """Require a mapping with the given keys, or with any keys if ``required`` is None."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{place} must be a mapping, got {value!r}; write 'name: value' pairs")
    if required is None:
        return value
    known = [*required.split(), *optional.split()]
    if unknown := [key for key in value if key not in known]:
        raise UserError(f"{place}: unknown key '{unknown[0]}'; choose from {', '.join(known)}")
    if missing := [key for key in required.split() if key not in value]:
        raise UserError(f"{place}: '{missing[0]}' is missing; add it")
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(
            f"{place} must be a list, got {value!r}; write [a, b] or one item per line after '- '"
        )
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place} must be text, got {value!r}; put it in quotes")
    return value


def _overrides(value: Any, place: str) -> tuple[str, ...]:
    for item in _list(value, place):
        if not isinstance(item, str) or not _OVERRIDE.fullmatch(item):
            raise UserError(
                f"{place}: expected key=value without spaces, got {item!r}; correct this override"
            )
    return tuple(value)
