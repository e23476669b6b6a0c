"""A table of runs: what differs between them, their state, the metrics that count, and where they lie."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from sdst.config.words import differing, flatten, typed, words
from sdst.errors import UserError
from sdst.sweeps.jobs import FAILED, status
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHOWN = (
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "MR-full-mAP",
    "MR-full-mIoU",
    "HL-min-VeryGood-mAP",
    "HL-min-VeryGood-Hit1",
    "mAP",
)
"""Metrics of the printed table, as far as the runs have them; the CSV has all."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run.

    Attributes:
        words: Option -> value, as typed.
        state: finished, failed, missing (not started or not finished), or refused.
        split: Split that selected the checkpoint; "" without result.
        metric: Metric that selected it.
        metrics: "SPLIT METRIC" -> value, of the best checkpoint.
        folder: Run folder; None of a refused job.
        reason: First line of the reason why it failed or was refused.
        features: "SIMULATED" if its features are, else "".
    """

    words: Mapping[str, str]
    state: str
    split: str = ""
    metric: str = ""
    metrics: Mapping[str, float] | None = None
    folder: Path | None = None
    reason: str = ""
    features: str = ""

    @property
    def outcome(self) -> str:
        """The metric that selected the checkpoint, or the reason of a failure."""
        if self.metrics is None:
            return self.reason
        value = f"{self.metrics[f'{self.split} {self.metric}']:.2f}"
        return " ".join(filter(None, (self.split, self.metric, value, self.features)))

    def differing(self, rows: Sequence[RunRow]) -> dict[str, str]:
        """The words in which it differs from other rows; all words if none differs."""
        keys = differing([row.words for row in rows]) or list(self.words)
        return {key: self.words[key] for key in keys if key in self.words}


def of_job(jobs: Path, name: str, said: Mapping[str, str]) -> RunRow:
    """The row of a job of a sweep; ``said`` are its words."""
    state, folder = status(jobs, name), jobs / name
    if state == "finished":
        return _of_finished(folder, said)
    return RunRow(said, state, folder=folder, reason=_reason(folder))


def of_runs(folders: Sequence[Path]) -> list[RunRow]:
    """The rows of run folders, in the words of their run.json; in all options if an older run has no words.

    Raises:
        UserError: A folder is not a run's, or a file is damaged.
    """
    runs = [RunFolder(folder) for folder in folders]
    configs = [run.config() for run in runs]
    facts = [run.facts() for run in runs]
    if all("choices" in of for of in facts):
        said = [words([*typed(of["choices"]), *of["overrides"]]) for of in facts]
        options = dict.fromkeys(["seed", *(option for values in said for option in values)])
        said = [
            {option: values.get(option, _text(OmegaConf.select(config, option))) for option in options}
            for values, config in zip(said, configs, strict=True)
        ]
    else:
        said = [words(typed(flatten(config))) for config in configs]
    return [_of_run(run, values) for run, values in zip(runs, said, strict=True)]


def _of_run(run: RunFolder, said: Mapping[str, str]) -> RunRow:
    if run.is_finished:
        return _of_finished(run.path, said)
    failed = (run.path / FAILED).is_file()
    return RunRow(said, "failed" if failed else "missing", folder=run.path, reason=_reason(run.path))


def find_runs(places: Sequence[Path]) -> list[Path]:
    """Run folders among and below the given folders; each run counts once, also if links lead to it.

    Raises:
        UserError: A folder has no run.
    """
    found: dict[Path, Path] = {}
    for place in places:
        runs = (
            [place]
            if RunFolder(place).is_begun
            else [path for path in sorted(place.glob("*")) if RunFolder(path).is_begun]
        )
        if not runs:
            raise UserError(
                f"{place}: no run here; give run folders, or folders of them such as a multirun's"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def as_text(rows: Sequence[RunRow]) -> str:
    """The table in aligned columns: what differs, state, metrics of the best checkpoint, folder."""
    keys = differing([row.words for row in rows])
    metrics = _shown(rows)
    marks = _marks(rows)
    header = [*keys, "state", *(_short(name) for name in metrics), *marks, "folder"]
    body = [
        [
            *(row.words.get(key, "") for key in keys),
            row.state,
            *(_cell(row.metrics, name) for name in metrics),
            *(row.features for _ in marks),
            ": ".join(filter(None, (str(_relative(row.folder)) if row.folder else "", row.reason))),
        ]
        for row in rows
    ]
    return _aligned([header, *body])


def as_csv(rows: Sequence[RunRow]) -> str:
    """The table with all words that differ and all metrics, unrounded."""
    keys = differing([row.words for row in rows])
    names = list(dict.fromkeys(name for row in rows for name in row.metrics or {}))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    marks = _marks(rows)
    writer.writerow([*keys, "state", *names, *marks, "folder", "reason"])
    for row in rows:
        values = [(row.metrics or {}).get(name, "") for name in names]
        writer.writerow(
            [
                *(row.words.get(key, "") for key in keys),
                *(row.state, *values),
                *(row.features for _ in marks),
                *(row.folder or "", row.reason),
            ]
        )
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in nothing but their seed: number of finished ones, mean and deviation of each metric."""

    words: Mapping[str, str]
    runs: tuple[RunRow, ...]

    @property
    def features(self) -> str:
        """The mark of simulated features, if a run has it."""
        return max(row.features for row in self.runs)

    def values(self, name: str) -> list[float]:
        """Values of a metric."""
        return [row.metrics[name] for row in self.runs if row.metrics and name in row.metrics]


def grouped(rows: Sequence[RunRow]) -> list[Group]:
    """Gather the runs that differ in their seed alone, in the order of the first of each."""
    keys = [key for key in differing([row.words for row in rows]) if key != "seed"]
    groups: dict[tuple[str, ...], list[RunRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row.words.get(key, "") for key in keys), []).append(row)
    return [Group(dict(zip(keys, said, strict=True)), tuple(runs)) for said, runs in groups.items()]


def grouped_markdown(rows: Sequence[RunRow]) -> str:
    """Mean ± sample standard deviation over seeds, a line per group of runs."""
    groups, metrics = grouped(rows), _shown(rows)
    keys = list(groups[0].words)
    marks = _marks(rows)
    header = [*keys, "seeds", *(_short(name) for name in metrics), *marks]
    body = [
        [
            *group.words.values(),
            str(sum(row.metrics is not None for row in group.runs)),
            *(_mean(group.values(name)) for name in metrics),
            *(group.features for _ in marks),
        ]
        for group in groups
    ]
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grouped_csv(rows: Sequence[RunRow]) -> str:
    """Mean and deviation of every metric, unrounded, a line per group of runs."""
    groups = grouped(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.metrics or {}))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    marks = _marks(rows)
    columns = [part for name in names for part in (name, f"{name} std")]
    writer.writerow([*groups[0].words, "seeds", *columns, *marks])
    for group in groups:
        cells: list[Any] = []
        for name in names:
            values = group.values(name)
            cells.append(statistics.fmean(values) if values else "")
            cells.append(statistics.stdev(values) if len(values) > 1 else "")
        cells += [group.features for _ in marks]
        writer.writerow([*group.words.values(), sum(row.metrics is not None for row in group.runs), *cells])
    return file.getvalue()


def _of_finished(folder: Path, said: Mapping[str, str]) -> RunRow:
    content = RunFolder(folder).metrics()
    try:
        selected = content["selected"]
        metrics = {
            f"{split} {name}": float(value)
            for split, brief in content["best"].items()
            for name, value in brief.items()
            if value is not None
        }
        split, metric = selected["split"], selected["metric"]
        _ = metrics[f"{split} {metric}"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{RunFolder(folder).metrics_path}: lacks the selected metric ({error}); "
            "remove the run folder and train again"
        ) from error
    features = "SIMULATED" * bool(content.get("simulated"))
    return RunRow(said, "finished", split, metric, metrics, folder, features=features)


def _reason(folder: Path) -> str:
    """First line of why a job failed; of a traceback the last."""
    path = folder / FAILED
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8").strip().splitlines() or [""]
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _text(value: Any) -> str:
    """A value as text; a group that a run's model lacks has none."""
    return "" if value is None or OmegaConf.is_dict(value) else str(value)


def _shown(rows: Sequence[RunRow]) -> list[str]:
    """Names of the printed metrics: :data:`SHOWN` on the splits that selected checkpoints, and what selected them."""
    splits = list(dict.fromkeys(row.split for row in rows if row.split))
    wanted = dict.fromkeys(f"{split} {name}" for split in splits for name in SHOWN)
    wanted |= dict.fromkeys(f"{row.split} {row.metric}" for row in rows if row.split)
    return [name for name in wanted if any(row.metrics and name in row.metrics for row in rows)]


def _marks(rows: Sequence[RunRow]) -> list[str]:
    """The column that marks simulated features, only if a run has them."""
    return ["features"] if any(row.features for row in rows) else []


def _short(name: str) -> str:
    return name.replace("MR-full-", "").replace("HL-min-VeryGood-", "HL ")


def _cell(metrics: Mapping[str, float] | None, name: str) -> str:
    return f"{metrics[name]:.2f}" if metrics and name in metrics else ""


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
    return "".join(f"{line}\n" for line in lines)


def _relative(path: Path) -> Path:
    """The path as seen from here, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
