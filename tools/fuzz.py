"""``make fuzz``: commands must accept a broken file or refuse it with a one-line user error.

A traceback, a crash, more than 20 seconds or more than 8 GiB of memory is a failure. Kind and number determine a
case: ``python tools/fuzz.py --kind checkpoints --first 17 --cases 1`` repeats it.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fuzz_kinds import Kind, make_kinds
from helpers.corpus import Corpus, make_corpus, make_rows
from mutations import mutate_bytes
from sdst.cli import main
from sdst.errors import UserError

SECONDS_PER_CASE = 20
MEMORY = 8 * 2**30


def run_case(kind: Kind, name: str, number: int, folder: Path) -> tuple[str, str]:
    """Run one case, determined by kind and number; return ("accepted", "refused" or "UNEXPECTED", details)."""
    rng = np.random.default_rng([number, *name.encode()])
    original = kind.originals[int(rng.integers(len(kind.originals)))]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        copy = Path(place, original.name)
        if original.is_dir():
            shutil.copytree(original, copy)
        else:
            shutil.copy(original, copy)
        target = copy / kind.targets[int(rng.integers(len(kind.targets)))] if kind.targets else copy
        mutations = [*kind.mutations, mutate_bytes]
        mutations[min(int(rng.integers(3)), len(mutations) - 1)](target, rng)
        output = io.StringIO()
        try:
            with alarm(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                kind.read(copy)
        except UserError:
            return "refused", ""
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return "UNEXPECTED", traceback.format_exc()
    if "Traceback" in output.getvalue():
        return "UNEXPECTED", output.getvalue()
    return ("refused" if "sdst: error:" in output.getvalue() else "accepted"), ""


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raise if the block takes too much processor time, which other programs do not affect."""

    def expired(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS_PER_CASE} s")

    before = signal.signal(signal.SIGPROF, expired)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_CASE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _work(kind: Kind, name: str, first: int, cases: int, until: float, folder: Path, pipe: Any) -> None:
    """Send the number and then the result of each case; a separate process, because a library may crash."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(first, first + cases):
        if time.monotonic() > until:
            break
        pipe.send(number)
        pipe.send(run_case(kind, name, number, folder))
    pipe.send(None)


def fuzz(kind: Kind, name: str, first: int, cases: int, seconds: float, folder: Path) -> Counter[str]:
    """Run cases until their number or the time is used up; print the unexpected ones."""
    found: Counter[str] = Counter()
    until = time.monotonic() + seconds
    context = multiprocessing.get_context("fork")
    number, last = first, first + cases
    while number < last and time.monotonic() < until:
        ours, theirs = context.Pipe()
        worker = context.Process(
            target=_work, args=(kind, name, number, last - number, until, folder, theirs)
        )
        worker.start()
        theirs.close()
        try:
            while (current := ours.recv()) is not None:
                number = current
                if not ours.poll(
                    10 * SECONDS_PER_CASE
                ):  # asleep, or stuck where the timer signal cannot interrupt it
                    worker.kill()
                outcome, details = ours.recv()
                found[outcome] += 1
                number += 1
                if outcome == "UNEXPECTED":
                    sys.stdout.write(f"\n{name}, case {current}:\n{details}\n")
            number = last
        except EOFError:
            found["UNEXPECTED"] += 1
            worker.join()
            sys.stdout.write(f"\n{name}, case {number}: the process ended with {worker.exitcode}\n")
            number += 1
        worker.join()
    return found


def make_originals(folder: Path) -> tuple[Corpus, Path]:
    """Make a corpus and a finished run."""
    rows = {split: make_rows(split, count) for split, count in (("train", 10), ("val", 5), ("test", 4))}
    corpus = make_corpus(folder / "corpus", rows)
    with contextlib.redirect_stderr(io.StringIO()):
        assert main(["train", *corpus.overrides, f"run_dir={folder / 'run'}"]) == 0
    return corpus, folder / "run"


def fuzz_all(arguments: argparse.Namespace) -> int:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = make_kinds(*make_originals(folder), folder)
        chosen = [arguments.kind] if arguments.kind else list(kinds)
        for kind in chosen:
            share = arguments.seconds / len(chosen)
            found = fuzz(kinds[kind], kind, arguments.first, arguments.cases, share, folder)
            totals.update(found)
            sys.stdout.write(f"{kind:<20} {_summary(found)}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{'all':<20} {_summary(totals)}\n")
    return int(totals["UNEXPECTED"] > 0)


def _summary(found: Counter[str]) -> str:
    return (
        f"{found.total():>6} cases  {found['refused']:>6} refused  {found['accepted']:>6} accepted  "
        f"{found['UNEXPECTED']:>3} unexpected"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=300, help="time limit of all kinds together (%(default)s)"
    )
    parser.add_argument("--cases", type=int, default=10**9, help="maximum number of cases per kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (%(default)s)")
    parser.add_argument("--kind", help="run only this kind")
    sys.exit(fuzz_all(parser.parse_args()))
