"""``sdst bench gpu``: checks and measurements on one GPU, each in a process and with a time limit of its own.

Both reports are written after every part, so a run that is killed leaves what it had.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdst.bench import report
from sdst.bench.gpu.processes import METHODS, Outcome, Task
from sdst.bench.gpu.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdst.bench.report import Row

NAME = "gpu"
"""Name of the reports' files."""
LEAST_SECONDS = 1.0
"""A part that would have less time is skipped."""


@dataclass(frozen=True)
class Part:
    """One check or measurement.

    Attributes:
        name: Name in the reports.
        function: Generator of its rows, as MODULE:NAME; it gets the settings and its time limit in seconds.
        weight: Share of the time left that it may take, relative to the weights of the later parts.
        needs: Part whose files it reads.
    """

    name: str
    function: str
    weight: float
    needs: str | None = None

    @property
    def log(self) -> str:
        """Name of its log."""
        return f"{self.name.replace(' ', '-').replace(',', '')}.log"


MACHINE = Part("machine", "hardware:hardware", 30)
PARTS = (
    MACHINE,
    Part("same results as the CPU", "agreement:agreement", 80),
    Part("steps, eager", "steps:eager", 35),
    Part("steps, compiled", "steps:compiled", 90),
    Part("steps, captured", "steps:captured", 70),
    Part("short features", "simulated:short", 20),
    Part("resuming", "trainings:resume", 60, needs="short features"),
    Part("two jobs on a GPU", "trainings:sharing", 40, needs="short features"),
    Part("joblib launcher", "trainings:launcher", 45, needs="short features"),
    Part("extraction", "tower:tower", 40),
    Part("paper features", "simulated:paper", 90),
    Part("paper-length training", "trainings:paper", 120, needs="paper features"),
)


def run(
    device: str, budget: float, rounds: int, overrides: Sequence[str], out: Path, threads: int | None
) -> int:
    """Run all parts, print a line for each, and write OUT/gpu.json and OUT/gpu.md.

    Args:
        device: ``cuda``, or ``cpu`` for tiny sizes.
        budget: Seconds that everything together may take.
        rounds: Number of timed rounds.
        overrides: Overrides of the paper-length training.
        out: Folder of the reports, and of a log per part.
        threads: Threads of PyTorch; None for PyTorch's default.

    Returns:
        1 if a part failed, else 0.
    """
    logs = out.resolve() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in logs.glob("*.log"):
        old.unlink()
    outcomes: dict[str, Outcome] = {}
    end = time.monotonic() + budget
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = Settings(device, rounds, tuple(overrides), Path(folder), logs, threads, METHODS[0])
        for number, part in enumerate(PARTS):
            left = end - time.monotonic()
            limit = left * part.weight / sum(later.weight for later in PARTS[number:])
            outcome = run_part(part, settings, limit, outcomes)
            if part is MACHINE and outcome.result == "failed":  # perhaps CUDA refuses forked processes
                settings = replace(settings, method=METHODS[1])
                outcome = run_part(part, settings, limit, outcomes)
            outcomes[part.name] = outcome
            sys.stdout.write(f"{part.name}: {describe(outcome)} ({outcome.seconds:.1f} of {limit:.0f} s)\n")
            sys.stdout.flush()
            write(out, outcomes, settings)
    sys.stdout.write(f"reports: {out / NAME}.md and .json; logs: {out / 'logs'}\n")
    return int(any(outcome.result == "failed" for outcome in outcomes.values()))


def run_part(part: Part, settings: Settings, limit: float, outcomes: dict[str, Outcome]) -> Outcome:
    """Run one part, or say why not."""
    if part.needs is not None and outcomes[part.needs].result != "ok":
        return Outcome("skipped", f"it reads the {part.needs}, which are missing")
    if limit < LEAST_SECONDS:
        return Outcome("skipped", "the time of --budget is used up")
    function = f"{__package__}.{part.function}"
    return Task(function, settings, limit, settings=settings, log=part.log).wait(limit)


def describe(outcome: Outcome) -> str:
    """A result and its reason."""
    return f"{outcome.result}: {outcome.reason}" if outcome.reason else outcome.result


def write(out: Path, outcomes: dict[str, Outcome], settings: Settings) -> None:
    """Write both reports about the parts so far."""
    rows: list[Row] = []
    facts: dict[str, Any] = {"device": settings.device, "overrides": list(settings.overrides)}
    for name, outcome in outcomes.items():
        found = [dict(row) for row in outcome.rows]
        for row in found:
            facts |= row.pop("facts", {})
        rows.append(
            {
                "part": name,
                "result": outcome.result,
                "reason": outcome.reason,
                "seconds": outcome.seconds,
                "rows": found,
            }
        )
    report.write(out, NAME, rows, facts)
    report.write_text(out, NAME, "\n".join(_markdown(rows, facts)))


def _markdown(rows: Sequence[Row], facts: dict[str, Any]) -> Iterator[str]:
    """The machine in one paragraph, and a table with a line per part and per case."""
    machine, versions, git = (facts.get(key) or {} for key in ("machine", "versions", "git"))
    known = {
        "GPU": machine.get("gpu") if facts["device"] == "cuda" else None,
        "driver": machine.get("driver"),
        **{name: versions.get(name) for name in ("torch", "cuda", "python", "sdst")},
        "CPU": machine.get("cpu"),
        "cores": machine.get("usable_cpus"),
        "commit": git.get("commit", "")[:12] + (" with changes" if git.get("dirty") else ""),
    }
    note = "" if facts["device"] == "cuda" else " A test of the script at tiny sizes, on the CPU."
    yield f"{', '.join(f'{key} {value}' for key, value in known.items() if value)}.{note}\n"
    yield "| part | result | case | figures |\n|---|---|---|---|"
    for part in rows:
        yield f"| {part['part']} | {report.cell(describe(Outcome(part['result'], part['reason'])))} | | |"
        for row in part["rows"]:
            figures = ", ".join(
                f"{column.replace('_', ' ')} {report.cell(value)}"
                for column, value in row.items()
                if column != "case" and value is not None
            )
            yield f"| | | {report.cell(row['case'])} | {figures} |"
