"""The HTML page of a run. Tables are rendered here; everything else is drawn by the page's own scripts.

Texts of a run are untrusted. Tables escape them, the data of the scripts cannot end its element, and a content security
policy lets the browser run only the script with the stated hash and load only video files.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from sdst.config.checks import resolve_auto_options
from sdst.config.compose import compose
from sdst.config.words import described, differing, flatten
from sdst.metrics.error_kinds import KINDS
from sdst.show.embedded import csp_hash, embed, page_file
from sdst.show.tables import seeds_section, table, wins_section
from sdst.sweeps.jobs import NOT_IDENTITY
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from omegaconf import DictConfig

    from sdst.runs.row import RunRow
    from sdst.show.runs import FinishedRun
    from sdst.show.wins import Wins

SCRIPTS = ("elements.js", "charts.js", "timeline.js", "video.js", "explorer.js")
"""Scripts in the order of their dependencies."""
NONE = "–"


def render(
    runs: Sequence[FinishedRun],
    data: dict[str, Any],
    rows: Sequence[RunRow] = (),
    wins: Sequence[Wins] = (),
) -> str:
    """The HTML text of the page.

    Args:
        runs: The runs.
        data: Data for the scripts, plain values without NaN; see :func:`sdst.show.comparison.show`.
        rows: The runs as rows, if there are several.
        wins: Wins and losses of the further runs against the first.
    """
    groups, compared = seeds_section(rows), wins_section(wins, runs[0].name)
    config_header, config_rows = config_table(runs)
    style, script = page_file("page.css"), "\n".join(page_file(name) for name in SCRIPTS)
    return Template(page_file("page.html")).substitute(
        title=escape(_title(runs)),
        style=style,
        style_hash=csp_hash(style),
        script=script,
        script_hash=csp_hash(script),
        lead="".join(f"<p>{escape(lead)}</p>" for lead in _leads(runs, rows)),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in data["notes"]),
        metrics=table(*metric_table(runs)),
        groups=groups,
        wins=compared,
        links='<a href="#seeds">Seeds</a>\n' * bool(groups)
        + '<a href="#wins">Wins and losses</a>\n' * bool(compared),
        kinds=table(*kind_table(runs[: data["compared"]], data["samples"])),
        facts=table(["", *(run.name for run in runs)], _by_label([_facts(run) for run in runs])),
        parameters=table(["", *(run.name for run in runs)], _by_label([_parameters(run) for run in runs])),
        same=_same_options(config_rows),
        config=table(config_header, config_rows, mark_differing=True),
        default=escape(f"sdst train data={runs[0].config.data.name}"),
        split=escape(data["split"]),
        version=__version__,
        data=embed(data),
    )


def metric_table(runs: Sequence[FinishedRun]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: metrics of the best checkpoint on every split; for two runs also second minus first."""
    splits = _keys(run.metrics["best"] for run in runs)
    names = _keys(run.metrics["best"].get(split, {}) for split in splits for run in runs)
    header, rows = ["%"], {key: [key] for key in names}
    for split in splits:
        briefs = [run.metrics["best"].get(split, {}) for run in runs]
        header += [split] if len(runs) == 1 else [f"{split}: {run.name}" for run in runs]
        header += ["difference"] * (len(runs) == 2)
        for key, row in rows.items():
            values = [brief.get(key) for brief in briefs]
            row += [NONE if value is None else f"{value:.2f}" for value in values]
            if len(runs) == 2:
                row.append(NONE if None in values else f"{values[1] - values[0]:+.2f}")
    return header, list(rows.values())


def kind_table(
    runs: Sequence[FinishedRun], samples: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: number of queries of each error kind in each run, and what the kind means."""
    rows = []
    for kind, meaning in KINDS.items():
        counts = [
            sum(kind in sample["answers"][index]["kinds"] for sample in samples) for index in range(len(runs))
        ]
        rows.append([kind, *(f"{count:,}" for count in counts), meaning])
    return ["", *(run.name for run in runs), "meaning"], rows


def config_table(runs: Sequence[FinishedRun]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: each option, its default on the first run's data set, and its value in each run."""
    configs = [_result_options(run.config) for run in runs]
    default = compose([f"data={runs[0].config.data.name}"])
    resolve_auto_options(default)
    columns = [_result_options(default), *configs]
    rows = [[key, *(column.get(key, NONE) for column in columns)] for key in _keys(columns)]
    return ["option", "default", *(run.name for run in runs)], rows


def _same_options(rows: Iterable[Sequence[str]]) -> str:
    """A note if no option differs; the page hides those that do not."""
    if any(len(set(values)) > 1 for _, *values in rows):
        return ""
    return '<p class="note">No option differs from the defaults.</p>'


def _result_options(config: DictConfig) -> dict[str, str]:
    """The options that can change a run's result."""
    elsewhere = tuple(f"{key}." for key in NOT_IDENTITY)
    return {key: value for key, value in flatten(config).items() if not f"{key}.".startswith(elsewhere)}


def _title(runs: Sequence[FinishedRun]) -> str:
    """The names of the runs; of a single one also its parent folder, because many runs are named "run"."""
    if len(runs) > 1:
        return " vs. ".join(run.name for run in runs)
    parent = Path(os.path.abspath(runs[0].folder)).parent.name
    return f"{parent}/{runs[0].name}" if parent else runs[0].name


def _leads(runs: Sequence[FinishedRun], rows: Sequence[RunRow]) -> list[str]:
    """What each run is, with what differs between several."""
    if not rows:
        return [_lead(run, "") for run in runs]
    options = differing([row.words for row in rows])
    told = (described({key: value for key in options if (value := row.words[key])}) for row in rows)
    return [_lead(run, text and f", {text}") for run, text in zip(runs, told, strict=True)]


def _lead(run: FinishedRun, words: str) -> str:
    """Data set, differing words and selected checkpoint of a run, in one or two sentences."""
    selected, dataset = run.metrics["selected"], run.config.data.name
    simulated = " SIMULATED features: the numbers are meaningless." * bool(run.metrics["simulated"])
    epochs = "1 epoch" if run.metrics["epochs"] == 1 else f"{run.metrics['epochs']} epochs"
    return (
        f"{run.name}: {dataset}{words}, best of {epochs} by {selected['split']}/{selected['metric']} "
        f"(epoch {selected['epoch'] + 1}).{simulated}"
    )


def _facts(run: FinishedRun) -> dict[str, str]:
    """Cost and origin of a run."""
    metrics, facts = run.metrics, run.facts
    git, features, machine = facts["git"], facts["features"], facts["machine"]
    minutes, seconds = divmod(round(metrics["fit_seconds"]), 60)
    commit = NONE if git is None else git["commit"] + " with uncommitted changes" * git["dirty"]
    return {
        "trainable parameters": f"{facts['parameters']['total']:,}",
        "training time including validation": f"{minutes} min {seconds} s",
        "training steps per second": f"{metrics['steps_per_second']}",
        "peak memory": f"{metrics['peak_memory_gb']} GB",
        "features": f"{features['backbone']}, {features['pooling']} pooling"
        + ", SIMULATED" * features["simulated"],
        "video layers, text layers": f"{features['video_layers']}, {features['text_layers']}",
        "machine": f"{machine['cpus']} CPU{'s' * (machine['cpus'] != 1)}, {machine['gpu'] or 'no GPU'}, "
        f"{machine['platform']}",
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "commit": commit,
        "command": " ".join(facts["command"]),
        "folder": str(run.folder),
    }


def _parameters(run: FinishedRun) -> dict[str, str]:
    return {part: f"{count:,}" for part, count in run.facts["parameters"].items()}


def _by_label(columns: Sequence[dict[str, str]]) -> list[list[str]]:
    return [[label, *(column.get(label, NONE) for column in columns)] for label in _keys(columns)]


def _keys(columns: Iterable[dict[str, Any]]) -> list[str]:
    """Keys of all columns, in order of first occurrence."""
    return list(dict.fromkeys(key for column in columns for key in column))
