"""Caption and notes of a table: what it compares, how its numbers were obtained, and what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdst.reports.noise import ALPHA, QUERIES, SEEDS
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Collection

    from sdst.reports.results import Results, Run

LAPTOP = (
    "Laptop scale: small models on small data. Absolute numbers are not comparable with the paper's; compare only the "
    "order of the rows."
)

REHEARSAL = (
    "Rehearsal scale: real annotations at half the width. The order of the rows is that on features made from the true "
    "moments, not on videos."
)


@dataclass(frozen=True, slots=True)
class Frame:
    """Text around a table.

    Attributes:
        caption: Sentences above the table.
        notes: Lines below the table.
    """

    caption: tuple[str, ...]
    notes: tuple[str, ...]


def describe(results: Results, marks: Collection[str]) -> Frame:
    """The text around a table.

    Args:
        results: Results shown in the table.
        marks: Noise marks that occur in the table.
    """
    experiment = results.experiment
    finished = [run for run in results.runs if run.status == "finished"]
    caption = [f"{experiment.title} ({experiment.source})."]
    if not experiment.jobs("paper"):
        caption.append("Only the paper's numbers: this table has no runs.")
        return Frame(tuple(caption), tuple(_notes(results, marks)))
    if splits := sorted({column.split for column in experiment.columns if column.split}):
        caption.append(f"Split{'s' * (len(splits) > 1)}: {', '.join(splits)}.")
    caption.append(f"Checkpoint: {_selection(finished)}; in the paper: {experiment.selection}.")
    caption.append(f"Scale: {results.scale}; {_seeds(results)}.")
    caption += data_sentences(finished)
    if results.scale == "laptop" and experiment.scales["laptop"]:
        caption.append(LAPTOP)
    if results.scale == "rehearsal":
        caption.append(REHEARSAL)
    if results.overrides:
        caption.append(f"All jobs have overrides: {', '.join(results.overrides)}.")
    if finished:
        caption.append(f"Commit: {commits(finished)}.")
    return Frame(tuple(caption), tuple(_notes(results, marks)))


def _selection(finished: list[Run]) -> str:
    rules = sorted({f"best epoch by {chosen['split']}/{chosen['metric']}" for chosen in _selected(finished)})
    return ", ".join(rules) or "none yet"


def _selected(finished: list[Run]) -> list[dict[str, str]]:
    return [run.metrics["selected"] for run in finished]


def _seeds(results: Results) -> str:
    seeds = sorted({run.seed for run in results.runs})
    if not seeds:
        return "no runs yet"
    if len(seeds) == 1:
        return f"ours: seed {seeds[0]}"
    return f"ours: mean ± sample standard deviation over seeds {', '.join(map(str, seeds))}"


def data_sentences(finished: list[Run]) -> list[str]:
    """What the features of runs are made of, if they are not those of real videos."""
    sentences = []
    backbones = {str(run.facts.get("features", {}).get("backbone", "")) for run in finished}
    if any("small-world" in name for name in backbones):
        sentences.append("Data: the synthetic small world of moving shapes with its small backbone.")
    if any(run.metrics["simulated"] for run in finished):
        sentences.append("SIMULATED features: these results are meaningless.")
    return sentences


def commits(finished: list[Run]) -> str:
    """The commits of runs, shortened and separated by commas."""
    commits = set()
    for run in finished:
        git = run.facts.get("git")
        commits.add(f"{git['commit'][:10]}{' with uncommitted changes' * git['dirty']}" if git else "unknown")
    return ", ".join(sorted(commits))


def _notes(results: Results, marks: Collection[str]) -> list[str]:
    notes = []
    if any(SEEDS in mark for mark in marks):
        notes.append(
            f"{SEEDS}: not significantly different from SDST across seeds (paired t-test, p ≥ {ALPHA:g})."
        )
    if any(QUERIES in mark for mark in marks):
        notes.append(
            f"{QUERIES}: not significantly different from SDST across queries (bootstrap, 95 % interval of the "
            "difference contains 0)."
        )
    notes += _optimism(results)
    notes += [
        f"{row.row.label}, {_failure(run)}"
        for row in results.rows
        for run in row.runs
        if run.status == "failed"
    ]
    if any(column.key == "parameters.total" for column in results.experiment.columns):
        notes.append("Our parameter counts are trainable parameters, in millions.")
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
    """Notes on optimistic numbers: those of a split that also selected the checkpoint."""
    shown = {column.split for column in results.experiment.columns}
    finished = [run for run in results.runs if run.status == "finished"]
    chosen = sorted({(run.metrics["epochs"], run.metrics["selected"]["split"]) for run in finished})
    return [
        f"Ours on {split} are optimistic: the best of {epochs} {'epoch' if epochs == 1 else 'epochs'} was selected on "
        f"{split} itself."
        for epochs, split in chosen
        if split in shown
    ]


def _failure(run: Run) -> str:
    """The failed run and its reason."""
    return f"{run.dataset}, seed {run.seed} failed: {RunFolder(run.folder).failure()}"
