"""``make fuzz``: commands must accept a broken file or refuse it with a one-line user error.

A traceback, a crash, more than 20 seconds or more than 8 GiB of memory is a failure. Kind and number determine a
case: ``python tools/fuzz.py --kind checkpoints --first 17 --cases 1`` repeats it.
"""

import argparse
import contextlib
import io
import json
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.shared_data import SHARED
from mutations import (
    Mutation,
    mutate_arrays,
    mutate_bytes,
    mutate_checkpoint,
    mutate_hdf5,
    mutate_json,
    mutate_rows,
    mutate_yaml,
)
from sdst.cli import main
from sdst.errors import UserError
from sdst.features.backbone.sizes import SHIPPED, read_config
from sdst.features.backbone.weights import read_tensors
from sdst.features.importers.arrays import read_contents
from sdst.features.importers.axes import decide
from sdst.features.writer import FeatureWriter
from sdst.sweeps.tables import experiments_dir

SECONDS_PER_CASE = 20
MEMORY = 8 * 2**30
ACCEPTED = (0, 2, 3)
"""Allowed exit statuses: success, user error, some of many inputs failed."""


@dataclass(frozen=True)
class Kind:
    """Input of one kind.

    Attributes:
        originals: Good files, or folders that hold the ``target``.
        read: Command or reader that gets the broken file.
        mutations: Ways to break it, besides changing bytes.
        targets: Files in the folder to break; empty where the original is the file.
    """

    originals: list[Path]
    read: Callable[[Path], object]
    mutations: list[Mutation]
    targets: tuple[str, ...] = ()


def command(*arguments: object) -> int:
    status = main([str(argument) for argument in arguments])
    assert status in ACCEPTED, f"exit status {status}"
    return status


class ReachedTrainingError(Exception):
    """The input was accepted, so the case ends before training starts."""


def resume(folder: Path) -> None:
    reached = patch("lightning.Trainer.fit", side_effect=ReachedTrainingError)
    with reached, contextlib.suppress(ReachedTrainingError):
        command("train", f"resume={folder}")


def continue_writing(journal: Path) -> None:
    out = journal.with_suffix("")
    with write_features(out) as writer:
        if not writer.has_text(1):
            writer.write_text(1, np.ones((2, 1, 4)))
        if not writer.has_video("v", "avg"):
            writer.write_video("avg", "v", np.ones((2, 1, 4)))
        writer.finish()
    command("features", "validate", out)


def write_features(path: Path) -> FeatureWriter:
    return FeatureWriter(path, backbone="b", video_layers=[1], text_layers=[1], clip_seconds=2.0)


def decode(path: Path) -> None:
    from sdst.features.clip_loader import load_clips
    from sdst.features.video import ClipSpec

    list(load_clips([("v", path)], ClipSpec(2.0, 2, 16), 4, num_workers=0))


def make_kinds(corpus: Corpus, run: Path, folder: Path) -> dict[str, Kind]:
    """Return kinds by name; write generated originals to the folder."""
    val, features, best = corpus.paths["val"], corpus.features, run / "checkpoints/best.ckpt"
    submission = run / "val_submission.jsonl"
    stored = ["--features", features, "--annotations", val]
    annotations = [val]
    for name in ("qvhighlights/highlight_val_release", "charades/charades_test_release", "tacos/val"):
        if (source := SHARED / f"annotations/{name}.jsonl").is_file():
            annotations.append(folder / source.name)
            annotations[-1].write_text("".join(source.open().readlines()[:20]))

    unfinished = folder / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "metrics.json").unlink()
    runs = folder / "runs"
    make_sweep(runs, run)

    journal = folder / "j.h5.partial"
    with write_features(folder / "j.h5") as writer:
        writer.write_text(0, np.ones((2, 1, 4)))
        writer.write_video("avg", "u", np.ones((3, 1, 4)))

    arrays = [folder / f"array{suffix}" for suffix in (".npy", ".npz", ".pt")]
    np.save(arrays[0], np.ones((4, 2, 3, 5), np.float32))
    np.savez(arrays[1], features=np.ones((4, 5)), last_hidden_state=np.ones((4, 5)))
    torch.save(torch.ones(4, 2, 5), arrays[2])
    packed_rows = folder / "packed.jsonl"
    packed_rows.write_text(json.dumps({"qid": 7, "vid": "array", "duration": 8, "query": "a query"}))
    packed = folder / "packed"
    packed.mkdir()
    for name in ("array.npz", "7.npz"):
        shutil.copy(arrays[1], packed / name)
    archives = [
        Path(shutil.make_archive(str(folder / "packed"), kind, packed)) for kind in ("tar", "gztar", "zip")
    ]
    weights = [
        folder / "weights.pt",
        SHIPPED["small-world"] / "weights.safetensors",
    ]
    torch.save({"module": {f"w{i}": torch.ones(3, 4) for i in range(4)}}, weights[0])
    sizes = folder / "sizes.json"
    sizes.write_text(json.dumps({"vision": VISION, "text": TEXT}))

    def read_array(path: Path) -> None:
        for kind in ("video", "text"):
            with contextlib.suppress(UserError):
                contents = read_contents(
                    path.read_bytes(), str(path), usual=["features", "last_hidden_state"]
                )
                decide(kind, [contents]).apply(contents)

    def import_archive(path: Path) -> None:
        options = ["--annotations", packed_rows, "--from", path, "--out", path.with_name("imported.h5")]
        command("features", "import", *options, "--backbone", "b")

    def read_features(path: Path) -> None:
        command("features", "inspect", path)
        command("features", "validate", path, "--annotations", val)
        command("features", "merge", path, "--out", path.with_name("merged.h5"))
        command("predict", "--checkpoint", best, "--features", path, "--annotations", val)

    kinds = {
        "annotations": Kind(
            annotations,
            lambda path: (
                command("evaluate", submission, path),
                command("features", "validate", features, "--annotations", path),
                command("predict", "--checkpoint", best, "--features", features, "--annotations", path),
                command(
                    "features",
                    "simulate",
                    path,
                    "--out",
                    path.with_name("s.h5"),
                    "--video-dim",
                    8,
                    "--levels",
                    1,
                ),
            ),
            [mutate_rows],
        ),
        "predictions": Kind(
            [submission], lambda path: command("evaluate", path, val, "--json"), [mutate_rows]
        ),
        "analysed runs": Kind([run], lambda path: command("analyze", path), [mutate_json], ("metrics.json",)),
        "features": Kind([features], read_features, [mutate_hdf5]),
        "checkpoints": Kind(
            [best, run / "checkpoints/last.ckpt"],
            lambda path: command("predict", "--checkpoint", path, *stored),
            [mutate_checkpoint],
        ),
        "run folders": Kind([unfinished], resume, [mutate_yaml], ("config.yaml",)),
        "experiments": Kind(
            sorted(experiments_dir().glob("table[3EM].yaml")),
            lambda path: command("report", path, "--runs", runs),
            [mutate_yaml],
        ),
        "reports": Kind(
            [runs],
            lambda path: command("report", "table3", "--runs", path),
            [mutate_json],
            ("sweeps/table3-laptop.json", f"jobs/{JOB}/metrics.json", f"jobs/{JOB}/run.json"),
        ),
        "journals": Kind([journal], continue_writing, []),
        "arrays": Kind(arrays, read_array, [mutate_arrays]),
        "archives": Kind(archives, import_archive, []),
        "backbone weights": Kind(weights, read_tensors, []),
        "backbone sizes": Kind([sizes], read_config, [mutate_json]),
    }
    if videos := sorted((SHARED / "videos").glob("*.*")):
        kinds["videos"] = Kind(videos[:3], decode, [])
    return kinds


JOB = "0123456789ab"
VISION = {"in_chans": 3, "img_size": 12, "patch_size": 6, "num_frames": 3, "tubelet_size": 1, "embed_dim": 8}
VISION |= {"depth": 2, "num_heads": 2, "mlp_ratio": 1, "attn_pool_num_heads": 4, "clip_embed_dim": 5}
TEXT = {"hidden_size": 6, "intermediate_size": 7, "num_attention_heads": 2, "num_hidden_layers": 3}
TEXT |= {"fusion_layer": 2, "vocab_size": 11, "max_position_embeddings": 9, "layer_norm_eps": 1}


def make_sweep(runs: Path, run: Path) -> None:
    """Write a finished job of table 3 and the manifest of its sweep."""
    shutil.copytree(run, runs / "jobs" / JOB)
    shutil.rmtree(runs / "jobs" / JOB / "checkpoints")
    (runs / "sweeps").mkdir()
    rows = ("CLS token", "Average pooling")
    jobs = [{"row": row, "dataset": "qvhighlights", "seed": 0, "identity": JOB} for row in rows]
    text = json.dumps({"experiment": "table3", "scale": "laptop", "overrides": [], "jobs": jobs})
    (runs / "sweeps/table3-laptop.json").write_text(text)


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
