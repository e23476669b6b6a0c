"""``make test-faults``: interrupt real processes at random moments and restart them until they finish.

The results must equal undisturbed ones: weights, metrics and features bit for bit, predictions and reports byte for
byte. Every file is read after each attempt. The moments are seeded shares of the processor time that an undisturbed
process takes, so other programs do not change them. Besides kills, a file size limit simulates a full disk, and a
limit on the number of writes a read-only disk; both must end in a one-line error. The matrix of kills then ends single
processes of a command (:mod:`kill_matrix`).
"""

import argparse
import contextlib
import math
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attempts import Strike, attempt
from interruptible import Kind, is_same, make_kinds, misbehaviour, unreadable
from kill_matrix import Cell, make_places, run_matrix

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


@dataclass
class Tally:
    """Faults injected into a kind and their outcome.

    Attributes:
        faults: Count of each signal, and of full and read-only disks.
        lost: Reasons why a file could not be read or a process ended wrongly.
        results: For each finished run, whether its result equals the undisturbed one.
    """

    faults: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    results: list[bool] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{counts}; {len(self.lost)} lost, {sum(self.results)} of {len(self.results)} results identical"
        )


def run_with_faults(kind: Kind, place: Path, kills: int, draw: random.Random) -> Tally:
    """Repeat a command with one fault each time until every fault has hit, then run it to its end."""
    faults = [fault for fault, share in kind.faults.items() for _ in range(math.ceil(share * kills))]
    draw.shuffle(faults)
    tally, whole = Tally(), place / "whole"
    whole.mkdir(parents=True)
    undisturbed = attempt(kind.command(whole), whole)
    assert undisturbed.status == 0, undisturbed.stderr
    expected = kind.result(whole)
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    folder, number = place / "0", 0
    folder.mkdir()
    while faults or (kind.result(folder) is None and not tally.lost):
        fault = faults.pop() if faults else "none"
        how: dict[str, Any] = {}
        if fault == "kill":
            how["strike"] = Strike(draw.uniform(0, undisturbed.seconds), draw.choice(SIGNALS))
        elif fault == "full":
            how["limit"] = draw.randrange(largest)
        elif fault == "read-only":
            how["opens"] = draw.randrange(20)
        ending = attempt(kind.command(folder), folder, **how)
        problems = misbehaviour(ending.status, ending.stderr, allowed(fault, kind))
        problems += [f"left behind: {left}" for left in (*ending.orphans, *ending.locks, *ending.shared)]
        tally.lost += [*unreadable(folder), *(f"{fault}: {problem}" for problem in problems)]
        if fault != "none" and ending.status == 0:
            faults.append(fault)  # the command finished first, so the fault is tried again
        elif fault == "kill":
            tally.faults["SIGKILL" if ending.status == -signal.SIGKILL else "SIGTERM"] += 1
        elif fault != "none":
            tally.faults[fault] += 1
        if kind.result(folder) is not None:
            tally.results.append(is_same(kind.result(folder), expected))
            if faults:
                number += 1
                folder = place / str(number)
                folder.mkdir()
    return tally


def allowed(fault: str, kind: Kind) -> tuple[int, ...]:
    """Return the exit statuses, besides 0, that the fault explains."""
    return {"none": (), "kill": (-signal.SIGKILL, -signal.SIGTERM, 143)}.get(fault, kind.refusals)


def run_kinds(options: argparse.Namespace, folder: Path) -> bool:
    """Run every kind with its kills, a quarter as many full and read-only disks; return whether all held."""
    held = True
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        kinds = make_kinds(folder)
    for index, kind in enumerate([options.kind] if options.kind else kinds):
        draw = random.Random(f"{options.seed} {kind}")
        tally = run_with_faults(kinds[kind], folder / f"faults {index}", options.kills, draw)
        sys.stdout.write(f"{kind:<24} {tally}\n")
        sys.stdout.writelines(f"  {problem}\n" for problem in tally.lost)
        sys.stdout.flush()
        held &= not tally.lost and all(tally.results)
    return held


def run_places(options: argparse.Namespace, folder: Path) -> bool:
    """Run the matrix with the requested kills of every place; return whether all held."""
    places, total = make_places(folder), Cell()
    if options.place:
        places = {options.place: places[options.place]}
    for name, moment, cell in run_matrix(places, folder, options.kills, options.seed):
        sys.stdout.write(f"{name:<33} {moment:<14} {cell}\n")
        sys.stdout.writelines(f"  {problem}\n" for problem in cell.problems)
        sys.stdout.flush()
        total.add(cell)
    sys.stdout.write(f"{total}\n")
    return not total.problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="kills per kind and per place (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fault moments (%(default)s)")
    parser.add_argument("--kind", help="run only this kind, without the matrix")
    parser.add_argument("--matrix", action="store_true", help="run only the matrix of kills")
    parser.add_argument("--place", help="run only this place of the matrix")
    given = parser.parse_args()
    good = []
    with tempfile.TemporaryDirectory() as name:
        if not (given.matrix or given.place):
            good.append(run_kinds(given, Path(name, "kinds")))
        if not given.kind:
            good.append(run_places(given, Path(name, "matrix")))
    sys.exit(not all(good))
