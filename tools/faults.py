"""``make test-faults``: interrupt real processes at random moments and restart them until they finish.

The results must equal undisturbed ones: weights, metrics and features bit for bit, predictions and reports byte for
byte. Every file is read after each attempt. The moments are seeded shares of the processor time that an undisturbed
process takes, so other programs do not change them. Besides kills, a file size limit simulates a full disk, and a
limit on the number of writes a read-only disk; both must end in a one-line error.
"""

import argparse
import contextlib
import errno
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import h5py
import torch
import yaml

from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.forked import send_stderr_to, server
from helpers.same_result import assert_equal, result_of_run
from helpers.sweep_table import arguments, write_table
from helpers.video_files import write_grey_video
from sdst.cli import main
from sdst.data.info import read_info
from sdst.features.extract import shard_path
from sdst.untrusted import hdf5

POLL = 0.002
TIMEOUT = 600
"""Seconds after which a process counts as hung."""
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".ckpt": lambda path: torch.load(path, weights_only=True),
    ".h5": read_info,
}
"""Readers by file type; these files must be complete whenever they exist."""


@dataclass(frozen=True)
class Kind:
    """A command that may be interrupted anywhere and repeated.

    Attributes:
        command: Arguments of ``sdst`` for an output folder.
        result: Result in the folder, or None while unfinished.
        refusals: Allowed exit statuses on a full or read-only disk.
        faults: Number of each fault as a share of the kills.
    """

    command: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    refusals: tuple[int, ...] = (2,)
    faults: dict[str, float] = field(default_factory=lambda: {"kill": 1, "full": 0.25, "read-only": 0.25})


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


# --- the process ---


def run(
    command: list[str], output: connection.Connection, limit: int | None, opens: int | None, folder: str
) -> None:
    """Run the command in the process, perhaps on a bad disk."""
    send_stderr_to(output)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if opens is not None:
        sys.addaudithook(read_only_after(opens, folder))
    sys.exit(main(command))


def read_only_after(opens: int, folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that refuses writes below a folder after ``opens`` writes."""
    left = opens

    def hook(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event in ("os.mkdir", "os.rename", "os.remove")
        writes |= event == "open" and bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(details[0]).startswith(folder):
            left -= 1
            if left < 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(details[0]))

    return hook


def family(process: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [process]
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{process}/task").iterdir():
            found += [pid for child in (task / "children").read_text().split() for pid in family(int(child))]
    return found


def processor_seconds(processes: list[int]) -> float:
    """Return the processor time of the processes in seconds."""
    used = 0
    for process in processes:
        with contextlib.suppress(OSError):
            tasks = Path(f"/proc/{process}/task").iterdir()
            used += sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return used / 1e9


def attempt(
    command: list[str],
    folder: Path,
    *,
    limit: int | None = None,
    opens: int | None = None,
    signal_at: tuple[float, signal.Signals] | None = None,
) -> tuple[int, str, float]:
    """Run a process to its end; return exit status, standard error and processor seconds.

    Args:
        command: Arguments of ``sdst``.
        folder: Output folder of the command.
        limit: Size of the largest file it can write, in bytes.
        opens: Number of times it can write to the folder.
        signal_at: Processor seconds after which it gets a signal, and the signal.
    """
    ours, theirs = server().Pipe(duplex=False)
    process = server().Process(target=run, args=(command, theirs, limit, opens, str(folder)))
    process.start()
    theirs.close()
    alive, used, until = [process.pid], 0.0, time.monotonic() + TIMEOUT
    while not connection.wait([process.sentinel], timeout=POLL):
        alive = family(process.pid)
        used = max(used, processor_seconds(alive))
        if signal_at and used >= signal_at[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal_at[1])
            signal_at = None
        assert time.monotonic() < until, f"{command} hangs"
    process.join()
    while any(Path(f"/proc/{pid}").exists() for pid in alive):  # its child processes must end too
        time.sleep(POLL)
        assert time.monotonic() < until, f"processes of {command} hang"
    with open(ours.fileno(), closefd=False, errors="replace") as output:
        return process.exitcode, output.read(), used


# --- faults ---


def run_with_faults(kind: Kind, place: Path, kills: int, draw: random.Random) -> Tally:
    """Repeat a command with one fault each time until every fault has hit, then run it to its end."""
    faults = [fault for fault, share in kind.faults.items() for _ in range(math.ceil(share * kills))]
    draw.shuffle(faults)
    tally, whole = Tally(), place / "whole"
    whole.mkdir(parents=True)
    status, stderr, seconds = attempt(kind.command(whole), whole)
    assert status == 0, stderr
    expected = kind.result(whole)
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    folder, number = place / "0", 0
    folder.mkdir()
    while faults or (kind.result(folder) is None and not tally.lost):
        fault = faults.pop() if faults else "none"
        how: dict[str, Any] = {}
        if fault == "kill":
            how["signal_at"] = draw.uniform(0, seconds), draw.choice(SIGNALS)
        elif fault == "full":
            how["limit"] = draw.randrange(largest)
        elif fault == "read-only":
            how["opens"] = draw.randrange(20)
        status, stderr, _ = attempt(kind.command(folder), folder, **how)
        tally.lost += [*unreadable(folder), *misbehaviour(status, stderr, fault, kind)]
        if fault != "none" and status == 0:
            faults.append(fault)  # the command finished first, so the fault is tried again
        elif fault == "kill":
            tally.faults["SIGKILL" if status == -signal.SIGKILL else "SIGTERM"] += 1
        elif fault != "none":
            tally.faults[fault] += 1
        if kind.result(folder) is not None:
            tally.results.append(is_same(kind.result(folder), expected))
            if faults:
                number += 1
                folder = place / str(number)
                folder.mkdir()
    return tally


def unreadable(folder: Path) -> list[str]:
    """Return the files that exist but cannot be read, with the error."""
    found = []
    for path in folder.rglob("*"):
        try:
            READERS.get(path.suffix, str)(path)
        except Exception as error:
            found.append(f"{path}: {error!r}")
    return found


def misbehaviour(status: int, stderr: str, fault: str, kind: Kind) -> list[str]:
    """Report an exit that the fault does not explain, or an error that is not one line."""
    allowed = {"none": (), "kill": (-signal.SIGKILL, -signal.SIGTERM, 143)}.get(fault, kind.refusals)
    errors = [line for line in stderr.splitlines() if line.startswith("sdst: error:")]
    if status not in (0, *allowed) or "Traceback" in stderr or len(errors) != (status == 2):
        return [f"{fault} ended with {status}: {stderr}"]
    return []


def is_same(result: Any, expected: Any) -> bool:
    try:
        assert_equal(result, expected)
    except AssertionError:
        return False
    return True


# --- kinds ---


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Return kinds by name; write their input to the folder."""
    rows = {split: make_rows(split, count) for split, count in (("train", 10), ("val", 5), ("test", 4))}
    corpus = make_corpus(folder / "corpus", rows)
    more = [*corpus.overrides, "trainer.max_epochs=4", "data.batch_size=2", "resume=auto"]

    def training(place: Path, *overrides: str) -> list[str]:
        return ["train", *more, *overrides, f"run_dir={place / 'run'}"]

    def trained(place: Path) -> Any:
        return result_of_run(place / "run") if (place / "run/metrics.json").exists() else None

    return {
        "training": Kind(training, trained),
        "training, two processes": Kind(
            lambda place: training(place, "trainer.devices=2"),
            trained,
            faults={"kill": 1},  # the disk faults do not reach its child processes
        ),
        "extraction": make_extraction(folder / "extraction"),
        "merging": make_merging(folder / "merging"),
        **make_tables(folder / "tables", corpus),
    }


def make_extraction(folder: Path) -> Kind:
    """Return the extraction of videos by the shipped backbone."""
    (folder / "videos").mkdir(parents=True)
    rows = make_rows("train", 18)
    for row in rows:
        write_grey_video(folder / f"videos/{row['vid']}.mov", [i / 5 for i in range(5 * row["duration"])])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--annotations", str(folder / "rows.jsonl"), "--videos", str(folder / "videos")]
    how = ["--config", "small-world", "--layers", "2", "--workers", "0", "--batch-size", "2"]
    return Kind(lambda place: ["extract", *given, *how, "--out", str(place / "f.h5")], contents)


def make_merging(folder: Path) -> Kind:
    """Return the merging of three shards."""
    shards = [shard_path(folder / "part.h5", index, 3) for index in range(3)]
    for index, shard in enumerate(shards):
        rows = make_rows("train", 30)
        for row in rows:
            row |= {"qid": f"{index}-{row['qid']}", "vid": f"{index}-{row['vid']}"}
        make_corpus(folder / str(index), {"train": rows}).features.rename(shard)
    return Kind(
        lambda place: ["features", "merge", *map(str, shards), "--out", str(place / "f.h5")], contents
    )


def make_tables(folder: Path, corpus: Corpus) -> dict[str, Kind]:
    """Return a sweep over two rows, and the report of a finished sweep."""
    experiments, finished = write_table(folder, corpus), folder / "runs"

    def swept(place: Path) -> Any:
        sweep = place / "sweeps/tableX-laptop.json"
        jobs = json.loads(sweep.read_text())["jobs"] if sweep.exists() else [{"identity": "none"}]
        runs = [place / "jobs" / job["identity"] for job in jobs]
        is_done = all((run / "metrics.json").exists() for run in runs)
        return [result_of_run(run) for run in runs] if is_done else None

    def reported(place: Path) -> Any:
        files = [place / f"tableX.{suffix}" for suffix in ("md", "csv", "tex")]
        return [file.read_bytes() for file in files] if all(file.exists() for file in files) else None

    assert main(["sweep", *arguments(experiments, finished)]) == 0
    return {
        # A job that cannot be written has failed; the sweep continues with the next job.
        "sweep": Kind(lambda place: ["sweep", *arguments(experiments, place)], swept, refusals=(1, 2)),
        "report": Kind(
            lambda place: ["report", *arguments(experiments, finished, "--out", str(place))], reported
        ),
    }


def contents(place: Path) -> dict[str, Any] | None:
    """Return every value of the feature file."""
    if not (place / "f.h5").exists():
        return None
    found: dict[str, Any] = {}
    with h5py.File(place / "f.h5") as file:
        found |= {name: str(value) for name, value in file.attrs.items()}
        groups = [f"video/{pooling}" for pooling in hdf5.names(file, "video")]
        keys = [f"{group}/{name}" for group in (*groups, "text") for name in hdf5.names(file, group)]
        found |= {key: torch.tensor(hdf5.read(file, key)) for key in keys}
    return found


def run_all(options: argparse.Namespace) -> int:
    """Run every kind with the requested kills, and a quarter as many full and read-only disks."""
    is_bad = False
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stderr(open(os.devnull, "w")):
            kinds = make_kinds(Path(name))
        for index, kind in enumerate([options.kind] if options.kind else kinds):
            draw = random.Random(f"{options.seed} {kind}")
            tally = run_with_faults(kinds[kind], Path(name, f"faults {index}"), options.kills, draw)
            sys.stdout.write(f"{kind:<24} {tally}\n")
            sys.stdout.writelines(f"  {problem}\n" for problem in tally.lost)
            sys.stdout.flush()
            is_bad |= bool(tally.lost) or not all(tally.results)
    return int(is_bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="kills per kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fault moments (%(default)s)")
    parser.add_argument("--kind", help="run only this kind")
    sys.exit(run_all(parser.parse_args()))
