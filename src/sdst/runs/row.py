"""One run as a row: what it is, its state, the metrics that count, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from sdst.config.words import differing, flatten, stored_words, typed, words
from sdst.errors import UserError
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run.

    Attributes:
        words: Option -> value, as typed.
        state: finished, failed, missing (not started or not finished), or refused; a list of runs has finer ones.
        split: Split that selected the checkpoint; "" without result.
        metric: Metric that selected it.
        metrics: "SPLIT METRIC" -> value, of the best checkpoint.
        folder: Run folder; None for a refused job.
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
    return _of_run(RunFolder(jobs / name), said)


def of_runs(folders: Sequence[Path]) -> list[RunRow]:
    """The rows of run folders, with the words of their run.json, or with all options if an older run has no words.

    Raises:
        UserError: A folder is not a run's, or a file is damaged.
    """
    runs = [RunFolder(folder) for folder in folders]
    facts = [run.facts() for run in runs]
    if all("choices" in of for of in facts):
        said = [stored_words(of["choices"], of["overrides"]) for of in facts]
        groups = {group for of in facts for group in of["choices"]}
        options = dict.fromkeys(["seed", *(option for values in said for option in values)])
        said = [_complete(run, values, options, groups) for run, values in zip(runs, said, strict=True)]
    else:
        said = [words(typed(flatten(run.config()))) for run in runs]
    return [_of_run(run, values) for run, values in zip(runs, said, strict=True)]


def _complete(
    run: RunFolder, said: Mapping[str, str], options: Iterable[str], groups: Collection[str]
) -> dict[str, str]:
    """The words of a run, with the value of every option that another run was given."""
    stored = run.plain_config()
    values = dict(said)
    for option in options:
        if option in values:
            continue
        value: Any = stored
        for key in option.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is None and option not in groups:  # perhaps newer than the run: the schema has its default
            value = OmegaConf.select(run.config(), option)
        values[option] = (
            "" if value is None or isinstance(value, dict) or OmegaConf.is_dict(value) else str(value)
        )
    return {option: values[option] for option in options}


def _of_run(run: RunFolder, said: Mapping[str, str]) -> RunRow:
    if run.is_finished:
        return of_finished(run.path, said)
    return RunRow(said, run.status, folder=run.path, reason=run.failure())


def of_finished(folder: Path, said: Mapping[str, str]) -> RunRow:
    """The row of a finished run; ``said`` are its words.

    Raises:
        UserError: Its metrics are damaged.
    """
    content = RunFolder(folder).metrics()
    try:
        selected = content["selected"]
        metrics = {
            f"{split} {name}": float(value)
            for split, brief in content["best"].items()
            for name, value in brief.items()
            if value is not None
        }
        split, metric = str(selected["split"]), str(selected["metric"])
        _ = metrics[f"{split} {metric}"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{RunFolder(folder).metrics_path}: lacks the selected metric ({error}); "
            "remove the run folder and train again"
        ) from error
    features = "SIMULATED" * bool(content.get("simulated"))
    return RunRow(said, "finished", split, metric, metrics, folder, features=features)
