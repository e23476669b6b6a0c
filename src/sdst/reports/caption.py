"""What stands around a table: what it compares, how its numbers came about, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.reports.noise import ALPHA, QUERIES, SEEDS
from sdst.sweeps.jobs import FAILED

if TYPE_CHECKING:
    from collections.abc import Collection

    from sdst.reports.results import Results, Run

LAPTOP = (
    "Laptop scale: small models on small data. Absolute numbers are not comparable with the paper's; only the order "
    "of the rows is."
)


@dataclass(frozen=True, slots=True)
class Frame:
    """Text around a table.

    Attributes:
        caption: Sentences above it.
        notes: Each a line below it.
    """

    caption: tuple[str, ...]
    notes: tuple[str, ...]


def describe(results: Results, marks: Collection[str]) -> Frame:
    """The text around a table.

    Args:
        results: What was run.
        marks: The marks of noise that the table has.
    """
    experiment = results.experiment
    finished = [run for run in results.runs if run.status == "finished"]
    caption = [f"{experiment.title} ({experiment.source})."]
    if not experiment.jobs("paper"):
        caption.append("The paper's numbers alone: nothing is run for them.")
        return Frame(tuple(caption), tuple(_notes(results, marks)))
    if splits := sorted({column.split for column in experiment.columns if column.split}):
        caption.append(f"Split: {', '.join(splits)}.")
    caption.append(f"Checkpoint: {_selection(finished)}; in the paper: {experiment.selection}.")
    caption.append(f"Scale: {results.scale}; {_seeds(results)}.")
    caption += _data(finished)
    if results.scale == "laptop" and experiment.scales["laptop"]:
        caption.append(LAPTOP)
    if finished:
        caption.append(f"Commit: {_commits(finished)}.")
    return Frame(tuple(caption), tuple(_notes(results, marks)))


def _selection(finished: list[Run]) -> str:
    rules = sorted({f"best epoch by {chosen['split']}/{chosen['metric']}" for chosen in _selected(finished)})
    return ", ".join(rules) or "none yet"


def _selected(finished: list[Run]) -> list[dict[str, str]]:
    return [run.metrics["selected"] for run in finished]


def _seeds(results: Results) -> str:
    seeds = sorted({run.seed for run in results.runs})
    if not seeds:
        return "nothing was run"
    return f"ours: mean ± sample standard deviation over seeds {', '.join(map(str, seeds))}"


def _data(finished: list[Run]) -> list[str]:
    told = []
    backbones = {str(run.facts.get("features", {}).get("backbone", "")) for run in finished}
    if any("small-world" in name for name in backbones):
        told.append("Data: the small world of moving shapes with its small backbone.")
    if any(run.metrics["simulated"] for run in finished):
        told.append("SIMULATED features: no result on them counts.")
    return told


def _commits(finished: list[Run]) -> str:
    commits = set()
    for run in finished:
        git = run.facts.get("git")
        commits.add(f"{git['commit'][:10]}{' with changes' * git['dirty']}" if git else "unknown")
    return ", ".join(sorted(commits))


def _notes(results: Results, marks: Collection[str]) -> list[str]:
    notes = []
    if any(SEEDS in mark for mark in marks):
        notes.append(
            f"{SEEDS} at a number of ours: the difference from SDST itself is within the noise of the seeds (paired "
            f"t-test, p ≥ {ALPHA:g})."
        )
    if any(QUERIES in mark for mark in marks):
        notes.append(
            f"{QUERIES} at a number of ours: the difference from SDST itself is within the noise of the queries "
            "(bootstrap, the 95 % interval contains 0)."
        )
    notes += _optimism(results)
    notes += [
        f"{row.row.label}, {_failure(run)}"
        for row in results.rows
        for run in row.runs
        if run.status == "failed"
    ]
    if any(column.key == "parameters.total" for column in results.experiment.columns):
        notes.append("Ours are trainable parameters in millions.")
    absent = sorted(set(results.experiment.scales["paper"]) - set(results.experiment.scales[results.scale]))
    if absent:
        notes.append(f"Not run at {results.scale} scale: {', '.join(absent)}.")
    notes += [f"{row.row.label}: {row.row.note}" for row in results.rows if row.row.note]
    notes += results.experiment.notes
    for row in results.rows:
        if names := [f"{run.identity} ({run.dataset}, seed {run.seed})" for run in row.runs if run.identity]:
            notes.append(f"Runs of {row.row.label}: {', '.join(names)}.")
    return notes


def _optimism(results: Results) -> list[str]:
    """Where the split that chose the checkpoint is also one whose numbers are shown."""
    shown = {column.split for column in results.experiment.columns}
    finished = [run for run in results.runs if run.status == "finished"]
    chosen = sorted({(run.metrics["epochs"], run.metrics["selected"]["split"]) for run in finished})
    return [
        f"Ours on {split}: the best of {epochs} epochs by {split} itself, so higher than they would be on unseen data."
        for epochs, split in chosen
        if split in shown
    ]


def _failure(run: Run) -> str:
    """Which run failed, and the last line of its reason."""
    reason = (run.folder / FAILED).read_text(encoding="utf-8").strip().rpartition("\n")[2]
    return f"{run.dataset}, seed {run.seed} failed: {reason}"
