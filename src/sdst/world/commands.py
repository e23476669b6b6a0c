"""``sdst world``: makes the small world, or trains its backbone; both go on where they were interrupted."""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.console.parser import Parser, at_least
from sdst.console.progress import progress_bars
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.world.annotate import MAX_QUERIES, annotate
from sdst.world.draw import draw_scene
from sdst.world.render import write_video

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from sdst.world.scene import Scene

    Rows = list[dict[str, Any]]

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SIZES = {"demo": (240, 40, 40), "laptop": (320, 40, 40)}
"""Videos per split."""


def main(argv: Sequence[str]) -> int:
    """Run one of the tools and return the exit status.

    Raises:
        UserError: Bad arguments, or a place that holds another world or cannot be written.
    """
    parser = Parser(prog="sdst world", description="A small invented world of moving shapes.")
    tools = parser.add_subparsers(required=True, metavar="make|train-backbone")
    make = tools.add_parser("make", help="make its videos and annotations, or go on making them")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder")
    make.add_argument(
        "--size", choices=SIZES, default="demo", help="how many videos to make (default: %(default)s)"
    )
    for split in SPLITS:
        make.add_argument(
            f"--{split}", type=at_least(0), metavar="N", help=f"{split} videos, instead of the size's"
        )
    make.add_argument(
        "--seed", type=at_least(0), default=0, help="another number, another world (%(default)s)"
    )
    make.add_argument(
        "--workers", type=at_least(0), default=2, help="processes that draw; 0 is this one (%(default)s)"
    )
    make.set_defaults(tool=_make)
    train = tools.add_parser(
        "train-backbone", help="train the small backbone that comes with the package anew"
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder")
    train.add_argument("--scenes", type=at_least(10), default=1000, help="to draw clips from (%(default)s)")
    train.add_argument("--steps", type=at_least(1), default=5500, help="of training (%(default)s)")
    train.add_argument(
        "--seed", type=at_least(0), default=0, help="of scenes and initial weights (%(default)s)"
    )
    train.add_argument("--workers", type=at_least(1), default=2, help="processes that draw (%(default)s)")
    train.set_defaults(tool=_train_backbone)
    args = parser.parse_args(argv)
    status: int = args.tool(args)
    return status


def make_world(
    folder: Path, num_videos: Mapping[str, int], *, seed: int = 0, workers: int = 0
) -> dict[str, Path]:
    """Write ``videos/*.mp4``, ``scenes/*.json`` and an annotation file in QVHighlights' format for each split.

    What is there already is not made again. A video depends on the seed, its split and its number alone: a world
    can be made larger later.

    Args:
        folder: Where everything goes; made if need be.
        num_videos: Split -> number of videos.
        seed: The same seed gives the same files.
        workers: Processes that draw; 0 is this one. They change nothing but the time it takes.

    Returns:
        Split -> annotation file, of the splits that have videos.

    Raises:
        UserError: The folder holds videos of another seed, or cannot be written.
    """
    try:
        for name in ("videos", "scenes"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made a folder ({error.strerror}); choose another") from error
    tasks = [
        _Task(folder, split, number, seed) for split in SPLITS for number in range(num_videos.get(split, 0))
    ]
    rows: dict[_Task, Rows] = {}
    with progress_bars() as bars:
        bar = bars.add_task("making videos", total=len(tasks))
        for task, made in _run(tasks, workers):
            rows[task] = made
            bars.advance(bar)
    paths = {}
    for split in SPLITS:
        lines = [json.dumps(row) for task in tasks if task.split == split for row in rows[task]]
        if lines:
            paths[split] = folder / f"{split}.jsonl"
            write_atomically(paths[split], "\n".join(lines) + "\n")
    return paths


@dataclass(frozen=True, slots=True)
class _Task:
    """One video to make."""

    folder: Path
    split: str
    number: int
    seed: int


def _make(args: Namespace) -> int:
    counts = dict(zip(SPLITS, SIZES[args.size], strict=True))
    counts |= {split: given for split in SPLITS if (given := getattr(args, split)) is not None}
    if not any(counts.values()):
        raise UserError("sdst world make: no videos are asked for; give --train, --val or --test above 0")
    make_world(args.out, counts, seed=args.seed, workers=args.workers)
    log.info("%s: %s", args.out, ", ".join(f"{count} {split}" for split, count in counts.items()) + " videos")
    return 0


def _train_backbone(args: Namespace) -> int:
    from sdst.world import train_backbone  # needs torch, making a world does not

    return train_backbone.main(args)


def _run(tasks: list[_Task], workers: int) -> Iterator[tuple[_Task, Rows]]:
    """Every task with its annotation rows, in any order."""
    if not workers:
        for task in tasks:
            yield task, _make_video(task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_leave_interrupts_alone) as pool:
        futures: dict[Future[Rows], _Task] = {pool.submit(_make_video, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or an interrupt nothing more is begun


def _leave_interrupts_alone() -> None:
    """In a worker: its parent ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_video(task: _Task) -> Rows:
    """Make a video and its scene's file unless they are there; the rows about it."""
    scene, rows = _invent(task)
    described = task.folder / "scenes" / f"{scene.vid}.json"
    video = task.folder / "videos" / f"{scene.vid}.mp4"
    text = scene.to_json()
    known = described.is_file()
    if known and described.read_bytes() != text.encode():
        raise UserError(f"{described}: belongs to another world; make this one in another folder")
    if not (known and video.is_file()):
        write_video(scene, video)
        write_atomically(described, text)
    return rows


def _invent(task: _Task) -> tuple[Scene, Rows]:
    """The task's scene, the first drawn about which something can be asked, and its rows."""
    index = SPLITS.index(task.split)
    held_out = task.split != "train"
    rng = np.random.default_rng((task.seed, index, task.number))
    while True:
        scene = draw_scene(f"world-{task.split}-{task.number:04d}", held_out=held_out, rng=rng)
        rows = annotate(scene, held_out=held_out, rng=rng)
        if rows:
            break
    # A query keeps its number when other splits grow.
    first = (task.number * len(SPLITS) + index) * MAX_QUERIES
    return scene, [{"qid": first + place, **row} for place, row in enumerate(rows)]
