"""Commands that may be interrupted anywhere and repeated, and what is compared of their results."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import torch
import yaml

from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.same_result import assert_equal, result_of_run
from helpers.sweep_table import arguments, write_table
from helpers.video_files import write_grey_video
from sdst.cli import main
from sdst.data.info import read_info
from sdst.features.shards import shard_path
from sdst.untrusted import hdf5

READERS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".ckpt": lambda path: torch.load(path, weights_only=True),
    ".h5": read_info,
}
"""Readers by file type; these files must be complete whenever they exist."""
TORCH_LOG = r"[WE]\d{4} [\d:.]+ \d+ (\S+/)?torch/"
"""Start of a line that PyTorch logs, such as a warning about an error that it raised in a signal handler itself."""
MOST_SHOWN = 600
"""Characters of a wrong end's standard error that are shown, the last ones."""


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


def unreadable(folder: Path) -> list[str]:
    """Return the files that exist but cannot be read, with the error."""
    found = []
    for path in folder.rglob("*"):
        try:
            READERS.get(path.suffix, str)(path)
        except Exception as error:
            found.append(f"{path}: {error!r}")
    return found


def misbehaviour(status: int, stderr: str, allowed: Sequence[int]) -> list[str]:
    """Report an exit that the fault does not explain, or an error that is not one line."""
    ours = [line for line in stderr.splitlines() if not re.match(TORCH_LOG, line)]
    errors = [line for line in ours if line.startswith("sdst: error:")]
    if status not in (0, *allowed) or "Traceback" in "\n".join(ours) or len(errors) != (status == 2):
        return [f"ended with {status}: {stderr[-MOST_SHOWN:]}"]
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
    corpus = small_corpus(folder / "corpus")
    return {
        "training": training(corpus),
        "training, two processes": replace(
            training(corpus, "trainer.devices=2"),
            faults={"kill": 1},  # the disk faults do not reach its child processes
        ),
        "extraction": make_extraction(folder / "extraction", workers=0),
        "merging": make_merging(folder / "merging"),
        **make_tables(folder / "tables", corpus),
    }


def small_corpus(folder: Path) -> Corpus:
    rows = {split: make_rows(split, count) for split, count in (("train", 10), ("val", 5), ("test", 4))}
    return make_corpus(folder, rows)


def training(corpus: Corpus, *overrides: str) -> Kind:
    """Return a training of four epochs of five steps."""
    more = [*corpus.overrides, "trainer.max_epochs=4", "data.batch_size=2", "resume=auto", *overrides]

    def trained(place: Path) -> Any:
        return result_of_run(place / "run") if (place / "run/metrics.json").exists() else None

    return Kind(lambda place: ["train", *more, f"run_dir={place / 'run'}"], trained)


def make_extraction(folder: Path, workers: int) -> Kind:
    """Return the extraction of videos by the shipped backbone."""
    (folder / "videos").mkdir(parents=True)
    rows = make_rows("train", 18)
    for row in rows:
        write_grey_video(folder / f"videos/{row['vid']}.mov", [i / 5 for i in range(5 * row["duration"])])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--annotations", str(folder / "rows.jsonl"), "--videos", str(folder / "videos")]
    how = ["--config", "small-world", "--layers", "2", "--workers", str(workers), "--batch-size", "2"]
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

    def reported(place: Path) -> Any:
        files = [place / f"tableX.{suffix}" for suffix in ("md", "csv", "tex")]
        return [file.read_bytes() for file in files] if all(file.exists() for file in files) else None

    assert main(["sweep", *arguments(experiments, finished)]) == 0
    return {
        "sweep": make_sweep(experiments),
        "report": Kind(
            lambda place: ["report", *arguments(experiments, finished, "--out", str(place))], reported
        ),
    }


def make_sweep(experiments: Path) -> Kind:
    """Return the sweep over the two rows of an experiment."""

    def swept(place: Path) -> Any:
        sweep = place / "sweeps/tableX-laptop.json"
        jobs = json.loads(sweep.read_text())["jobs"] if sweep.exists() else [{"identity": "none"}]
        runs = [place / "jobs" / job["identity"] for job in jobs]
        is_done = all((run / "metrics.json").exists() for run in runs)
        return [result_of_run(run) for run in runs] if is_done else None

    # A job that cannot be written has failed; the sweep continues with the next job.
    return Kind(lambda place: ["sweep", *arguments(experiments, place)], swept, refusals=(1, 2))


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
