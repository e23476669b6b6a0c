"""Kills of every process of a command at every stage: early, in the middle, and while a file is being written.

After each kill, the same command must finish with the undisturbed result, and nothing of the killed one may be left: no
process, no lock, no file in shared memory, no temporary file.
"""

import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attempts import Ending, Strike, attempt, workers
from helpers.corpus import Corpus
from helpers.forked import fork_ranks
from helpers.same_result import result_of_run
from helpers.sweep_table import write_table
from interruptible import (
    Kind,
    is_same,
    make_extraction,
    make_sweep,
    misbehaviour,
    small_corpus,
    training,
    unreadable,
)

MOMENTS = {"early": (0.0, 0.15, False), "middle": (0.15, 0.85, False), "while writing": (0.0, 0.8, True)}
"""Moment -> range of its shares of the processor time, and whether it waits until a file is being written."""
TRIES = 8
"""Attempts at a kill before which the command may end; more are a problem to report."""
KILLED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
"""Exit statuses of a killed main process."""


@dataclass(frozen=True)
class Place:
    """A process to kill.

    Attributes:
        kind: Command that it belongs to.
        of_workers: Whether it is one of the two child processes that work for the main process.
        statuses: Allowed exit statuses of the main process when a child process was killed.
        forks: Whether its child processes are forks, which must not share its lock. Ranks and jobs have locks of their
            own, and between fork and exec every child shares all files for a moment.
        prepare: See :func:`attempts.attempt`.
    """

    kind: Kind
    of_workers: bool = False
    statuses: Sequence[int] = (2,)
    forks: bool = False
    prepare: Any = None


@dataclass
class Cell:
    """Kills at one place and moment, and what came of them.

    Attributes:
        kills: Number of signals sent.
        lost: Unreadable files and wrong ends.
        left: What a killed or repeated command has left behind, by kind.
        results: For each kill, whether the repeated command gave the undisturbed result.
    """

    kills: int = 0
    lost: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(
        default_factory=lambda: {
            name: [] for name in ("orphans", "left locks", "shared-memory files", "temporary files")
        }
    )
    results: list[bool] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{len(found)} {name}" for name, found in self.left.items())
        same = sum(self.results)
        results = "all" if same == len(self.results) else f"{same} of {len(self.results)}"
        return f"{self.kills} kills, {len(self.lost)} lost, {counts}, {results} results identical"

    @property
    def problems(self) -> list[str]:
        """Everything that should not be."""
        left = [f"{name}: {item}" for name, items in self.left.items() for item in items]
        wrong = [f"kill {number}: another result" for number, same in enumerate(self.results) if not same]
        return [*self.lost, *left, *wrong]

    def add(self, other: "Cell") -> None:
        """Add the kills of another cell."""
        self.kills += other.kills
        self.lost += other.lost
        self.results += other.results
        for name, found in other.left.items():
            self.left[name] += found

    def note(self, ending: Ending, allowed: Sequence[int], folder: Path) -> None:
        """Record how a command ended, and what it left behind."""
        # Python's own traceback of a child process that was just being started has no reader any more.
        stderr = "" if ending.status < 0 else ending.stderr
        self.lost += [*unreadable(folder), *misbehaviour(ending.status, stderr, allowed)]
        self.left["orphans"] += ending.orphans
        self.left["left locks"] += map(str, ending.locks)
        self.left["shared-memory files"] += map(str, ending.shared)


def make_places(folder: Path) -> dict[str, Place]:
    """Return places by name; write the input of their commands to the folder."""
    corpus = small_corpus(folder / "corpus")
    loading = training(corpus, "data.num_workers=2")
    extraction = make_extraction(folder / "extraction", workers=2)
    places = {
        "training, main process": Place(loading, forks=True),
        "training, loader worker": Place(loading, of_workers=True),
        "extraction, main process": Place(extraction),
        "extraction, worker": Place(extraction, of_workers=True),
        "training, one of two ranks": Place(
            training(corpus, "trainer.devices=2"), of_workers=True, prepare=fork_ranks
        ),
        "sweep, running job": Place(make_sweep(write_table(folder / "tables", corpus))),
    }
    if find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_joblib_launcher"):
        multirun = make_multirun(corpus)
        places["multirun by joblib, main process"] = Place(multirun)
        places["multirun by joblib, job"] = Place(multirun, of_workers=True)
    return places


def make_multirun(corpus: Corpus) -> Kind:
    """Return a multirun whose two jobs run in processes of joblib."""
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    overrides = [*corpus.overrides, "attention=standard,rdsa", *launcher]

    def results(place: Path) -> Any:
        runs = sorted(path.parent for path in place.glob("jobs/*/metrics.json"))
        return {run.name: result_of_run(run) for run in runs} if len(runs) == 2 else None

    def command(place: Path) -> list[str]:
        return ["train", "-m", *overrides, f"paths.runs={place}", f"hydra.sweep.dir={place / 'multirun'}"]

    return Kind(command, results)


def run_matrix(
    places: dict[str, Place], folder: Path, kills: int, seed: int
) -> Iterator[tuple[str, str, Cell]]:
    """Kill every place ``kills`` times, at the moments in turn; yield place, moment and cell."""
    undisturbed: dict[Any, tuple[float, Any]] = {}
    for number, (name, place) in enumerate(places.items()):
        if place.kind.command not in undisturbed:
            undisturbed[place.kind.command] = run_undisturbed(place, folder / f"whole {number}")
        seconds, expected = undisturbed[place.kind.command]
        for index, moment in enumerate(MOMENTS):
            cell, draw = Cell(), random.Random(f"{seed} {name} {moment}")
            for kill in range(index, kills, len(MOMENTS)):
                # Every fourth kill of a main process is the signal that lets a training save itself.
                asks = not place.of_workers and kill % 4 == 3
                strike = make_strike(place, moment, seconds, draw, asks=asks)
                cell.add(kill_once(place, strike, folder / f"{number} {kill}", expected))
            yield name, moment, cell


def run_undisturbed(place: Place, folder: Path) -> tuple[float, Any]:
    """Run the command of a place once; return its processor seconds and its result."""
    folder.mkdir(parents=True)
    ending, cell = attempt(place.kind.command(folder), folder, prepare=place.prepare), Cell()
    cell.note(ending, (), folder)
    assert not cell.problems, cell.problems
    return ending.seconds, place.kind.result(folder)


def make_strike(
    place: Place, moment: str, seconds: float, draw: random.Random, *, asks: bool = False
) -> Strike:
    """Draw a kill at a moment of a command that takes so many seconds; ``asks`` makes it SIGTERM."""
    first, last, writing = MOMENTS[moment]
    strike = Strike(
        seconds * draw.uniform(first, last),
        signal.SIGTERM if asks else signal.SIGKILL,
        writing=writing,
        holding=place.forks and not asks,
    )
    which = draw.randrange(2)
    return replace(strike, victims=lambda main: workers(main)[which:][:1]) if place.of_workers else strike


def kill_once(place: Place, strike: Strike, folder: Path, expected: Any) -> Cell:
    """Kill a process of the command, repeat the command, and look for what is left.

    A command that ends before the kill is repeated elsewhere, with an earlier kill each time.
    """
    cell, kind = Cell(), place.kind
    for number in range(TRIES):
        output = folder / str(number)
        output.mkdir(parents=True)
        ending = attempt(
            kind.command(output),
            output,
            strike=replace(strike, seconds=strike.seconds * (1 - number / TRIES)),
            prepare=place.prepare,
        )
        if ending.struck and (ending.status != 0 or place.of_workers):
            break
        cell.note(ending, (), output)
        if cell.problems:
            return cell
    else:
        cell.lost.append(f"{kind.command(output)} ended {TRIES} times before it was killed")
        return cell
    cell.kills = 1
    cell.note(ending, place.statuses if place.of_workers else KILLED, output)
    if kind.result(output) is None:
        cell.note(attempt(kind.command(output), output, prepare=place.prepare), (), output)
    cell.left["temporary files"] += [str(path) for path in output.rglob(".*.tmp")]
    cell.results.append(is_same(kind.result(output), expected))
    return cell
