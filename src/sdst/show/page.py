"""The HTML page of a run. Tables are rendered here; everything else is drawn by the page's own scripts.

Texts of a run are untrusted. Tables escape them, the data of the scripts cannot end its element, and a content security
policy lets the browser run only the script with the stated hash and load only video files.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from sdst.config.checks import resolve_auto_options
from sdst.config.compose import compose
from sdst.config.words import flatten
from sdst.metrics.error_kinds import KINDS
from sdst.sweeps.jobs import NOT_IDENTITY
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from omegaconf import DictConfig

    from sdst.show.runs import FinishedRun

SCRIPTS = ("elements.js", "charts.js", "timeline.js", "video.js", "explorer.js")
"""Scripts in the order of their dependencies."""
NONE = "–"


def render(runs: Sequence[FinishedRun], data: dict[str, Any]) -> str:
    """The HTML text of the page.

    Args:
        runs: The runs.
        data: Data for the scripts, plain values without NaN; see :func:`sdst.show.commands.show`.
    """
    style, script = page_file("page.css"), "\n".join(page_file(name) for name in SCRIPTS)
    return Template(page_file("page.html")).substitute(
        title=escape(" vs. ".join(run.name for run in runs)),
        style=style,
        style_hash=csp_hash(style),
        script=script,
        script_hash=csp_hash(script),
        lead="".join(f"<p>{escape(_lead(run))}</p>" for run in runs),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in data["notes"]),
        metrics=_table(*metric_table(runs)),
        kinds=_table(*kind_table(runs, data["samples"])),
        facts=_table(["", *(run.name for run in runs)], _by_label([_facts(run) for run in runs])),
        parameters=_table(["", *(run.name for run in runs)], _by_label([_parameters(run) for run in runs])),
        config=_table(*config_table(runs), mark_differing=True),
        default=escape(f"sdst train data={runs[0].config.data.name}"),
        split=escape(data["split"]),
        version=__version__,
        data=embed(data),
    )


def embed(data: dict[str, Any]) -> str:
    """JSON for a script element, escaped so that its texts cannot end the element or start a comment."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def metric_table(runs: Sequence[FinishedRun]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: metrics of the best checkpoint on every split; for two runs also second minus first."""
    splits = list(runs[0].metrics["best"])
    header, rows = ["%"], {key: [key] for split in splits for key in runs[0].metrics["best"][split]}
    for split in splits:
        briefs = [run.metrics["best"].get(split, {}) for run in runs]
        header += [split] if len(runs) == 1 else [*(f"{split}: {run.name}" for run in runs), "difference"]
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


def _result_options(config: DictConfig) -> dict[str, str]:
    """The options that can change a run's result."""
    elsewhere = tuple(f"{key}." for key in NOT_IDENTITY)
    return {key: value for key, value in flatten(config).items() if not f"{key}.".startswith(elsewhere)}


def _lead(run: FinishedRun) -> str:
    """Data set and selected checkpoint of a run, in one or two sentences."""
    selected, dataset = run.metrics["selected"], run.config.data.name
    simulated = " SIMULATED features: the numbers are meaningless." * bool(run.metrics["simulated"])
    epochs = "1 epoch" if run.metrics["epochs"] == 1 else f"{run.metrics['epochs']} epochs"
    return (
        f"{run.name}: {dataset}, best of {epochs} by {selected['split']}/{selected['metric']} "
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


def _keys(columns: Iterable[dict[str, str]]) -> list[str]:
    """Keys of all columns, in order of first occurrence."""
    return list(dict.fromkeys(key for column in columns for key in column))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, mark_differing: bool = False) -> str:
    """An HTML table whose first column has the row headers; optionally marks rows with differing values."""
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    lines = [f"<thead><tr>{cells}</tr></thead><tbody>"]
    for name, *values in rows:
        mark = ' class="differs"' if mark_differing and len(set(values)) > 1 else ""
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</tbody></table></div>'


def csp_hash(source: str) -> str:
    """Hash of an inline style or script for a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def page_file(name: str) -> str:
    """Content of one of the page's source files."""
    return resources.files("sdst.show").joinpath(name).read_text(encoding="utf-8")
