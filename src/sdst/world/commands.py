"""``sdst world``: make the small world or train its backbone; both continue after an interruption."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sdst.console.parser import Parser, at_least
from sdst.console.progress import progress_bars
from sdst.errors import UserError
from sdst.files.atomic import write_atomically
from sdst.files.orphans import begin_worker
from sdst.world.annotate import annotate
from sdst.world.draw import draw_scene
from sdst.world.render import write_video

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from sdst.world.scene import Scene

    Rows = list[dict[str, Any]]

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
MAX_QUERIES = 6  # per video


class Size(NamedTuple):
    """A preset of ``sdst world make``: numbers of train, val and test videos, and of queries about a video at most."""

    videos: tuple[int, int, int]
    queries: int


# As many training queries as six about each of 240 videos, in three quarters of the time to draw and read all videos.
SIZES = {"demo": Size((160, 40, 40), 12), "laptop": Size((320, 135, 135), MAX_QUERIES)}


def main(argv: Sequence[str]) -> int:
    """Run one of the tools and return the exit status.

    Raises:
        UserError: Arguments are invalid, or the folder holds another world or cannot be written.
    """
    parser = Parser(prog="sdst world", description="Make a small synthetic world of moving shapes.")
    tools = parser.add_subparsers(required=True, metavar="make|train-backbone")
    make = tools.add_parser("make", help="make videos and annotations, or continue an interrupted call")
    make.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    make.add_argument(
        "--size",
        choices=SIZES,
        default="demo",
        help="preset for the numbers of videos and queries (default: %(default)s)",
    )
    for split in SPLITS:
        make.add_argument(
            f"--{split}",
            type=at_least(0),
            metavar="N",
            help=f"number of {split} videos (default: from --size)",
        )
    make.add_argument(
        "--queries",
        type=at_least(1),
        metavar="N",
        help="number of queries about a video, at most (default: from --size)",
    )
    make.add_argument(
        "--seed", type=at_least(0), default=0, help="random seed of the world (default: %(default)s)"
    )
    make.add_argument(
        "--workers",
        type=at_least(0),
        default=2,
        help="number of processes that draw; 0 draws in the main process (default: %(default)s)",
    )
    make.set_defaults(tool=_make)
    train = tools.add_parser(
        "train-backbone", help="train again the small backbone that the package contains"
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    train.add_argument(
        "--scenes", type=at_least(10), default=1000, help="number of scenes to draw (default: %(default)s)"
    )
    train.add_argument(
        "--steps", type=at_least(1), default=5000, help="number of training steps (default: %(default)s)"
    )
    train.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        help="random seed of scenes and initial weights (default: %(default)s)",
    )
    train.add_argument(
        "--workers", type=at_least(1), default=2, help="number of processes that draw (default: %(default)s)"
    )
    train.set_defaults(tool=_train_backbone)
    args = parser.parse_args(argv)
    status: int = args.tool(args)
    return status


def make_world(
    folder: Path,
    num_videos: Mapping[str, int],
    *,
    queries: int = MAX_QUERIES,
    seed: int = 0,
    workers: int = 0,
) -> dict[str, Path]:
    """Write ``videos/*.mp4``, ``scenes/*.json`` and an annotation file in QVHighlights' format for each split.

    Existing files are not made again. A video only depends on the seed, its split and its number, so a later call can
    enlarge a world.

    Args:
        folder: Output folder, created if it does not exist.
        num_videos: Split -> number of videos.
        queries: Number of queries about a video, at most. Of a larger number, the first ones are the same.
        seed: Random seed; the same seed gives the same files.
        workers: Number of processes that draw, 0 for the calling process; it does not change the files.

    Returns:
        Split -> annotation file, for the splits that have videos.

    Raises:
        UserError: The folder holds videos of another seed, or cannot be written.
    """
    try:
        for name in ("videos", "scenes"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot create the folder ({error.strerror}); choose another") from error
    tasks = [
        _Task(folder, split, number, queries, seed)
        for split in SPLITS
        for number in range(num_videos.get(split, 0))
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
    queries: int
    seed: int


def _make(args: Namespace) -> int:
    size = SIZES[args.size]
    counts = dict(zip(SPLITS, size.videos, strict=True))
    counts |= {split: given for split in SPLITS if (given := getattr(args, split)) is not None}
    if not any(counts.values()):
        raise UserError(
            "sdst world make needs at least one video, got 0; set --train, --val or --test above 0"
        )
    queries = args.queries or size.queries
    make_world(args.out, counts, queries=queries, seed=args.seed, workers=args.workers)
    log.info("%s: %s", args.out, ", ".join(f"{count} {split}" for split, count in counts.items()) + " videos")
    return 0


def _train_backbone(args: Namespace) -> int:
    from sdst.world import train_backbone  # imports torch, which making a world does not need

    return train_backbone.main(args)


def _run(tasks: list[_Task], workers: int) -> Iterator[tuple[_Task, Rows]]:
    """Yield every task with its annotation rows, in any order."""
    if not workers:
        for task in tasks:
            yield task, _make_video(task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=begin_worker) as pool:
        futures: dict[Future[Rows], _Task] = {pool.submit(_make_video, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # so that no task starts after an error or an interrupt


def _make_video(task: _Task) -> Rows:
    """Write a video and its scene file unless they exist; returns its annotation rows."""
    scene, rows = _draw(task)
    described = task.folder / "scenes" / f"{scene.vid}.json"
    video = task.folder / "videos" / f"{scene.vid}.mp4"
    text = scene.to_json()
    known = described.is_file()
    if known and described.read_bytes() != text.encode():
        raise UserError(f"{described}: belongs to another world; choose another folder for this one")
    if not (known and video.is_file()):
        write_video(scene, video)
        write_atomically(described, text)
    return rows


def _draw(task: _Task) -> tuple[Scene, Rows]:
    """Draw scenes until one has queries; returns that scene and its annotation rows."""
    index = SPLITS.index(task.split)
    held_out = task.split != "train"
    rng = np.random.default_rng((task.seed, index, task.number))
    while True:
        scene = draw_scene(f"world-{task.split}-{task.number:04d}", held_out=held_out, rng=rng)
        rows = annotate(scene, most=task.queries, held_out=held_out, rng=rng)
        if rows:
            break
    # A query keeps its number when other splits grow.
    first = (task.number * len(SPLITS) + index) * task.queries
    return scene, [{"qid": first + place, **row} for place, row in enumerate(rows)]
