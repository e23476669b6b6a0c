"""``sdst show``: a finished run, or two side by side, as one HTML page that works from disk and offline."""

from __future__ import annotations

import logging
import os
import sys
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sdst.console.parser import Parser
from sdst.data.annotations import read_annotations
from sdst.errors import UserError
from sdst.features.extract import find_videos
from sdst.files.atomic import write_atomically
from sdst.metrics.error_kinds import CONSIDERED, KINDS
from sdst.metrics.evaluation import PROTOCOLS
from sdst.show.page import render
from sdst.show.runs import read_curves, read_run, selected_step
from sdst.show.samples import describe_samples, matching_predictions
from sdst.show.traces import trace_moments
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.show.runs import FinishedRun
    from sdst.show.traces import Trace
    from sdst.types import Prediction, Qid, Record

logger = logging.getLogger(__name__)

VIDEOS = "videos"
"""The folder beside the annotations where videos are looked for."""


def main(argv: Sequence[str]) -> int:
    """Write the page that the command line asks for, and print its name."""
    args = _parser().parse_args(argv)
    if len(args.runs) > 2:
        raise UserError(f"sdst show: {len(args.runs)} runs; give one, or two to compare")
    out = show(
        args.runs,
        args.out,
        split=args.split,
        annotations=args.annotations,
        videos=args.videos,
        video_name=args.video_name,
    )
    sys.stdout.write(f"{out}\n")
    return 0


def show(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    split: str | None = None,
    annotations: Path | None = None,
    videos: Path | None = None,
    video_name: str = "{vid}",
) -> Path:
    """Write the page of a finished run, or of two that predict the same queries.

    Args:
        folders: One or two run folders.
        out: The page; by default in the first run's folder.
        split: Whose predictions to show; by default the one that chose the first run's checkpoint.
        annotations: Of that split; by default what the first run was given.
        videos: Folder of the video files, which the page plays from where they are; by default :data:`VIDEOS` beside
            the annotations, if there is one.
        video_name: What a video's file is called, without extension.

    Returns:
        The page.

    Raises:
        UserError: A folder holds no finished run, files are missing, or the runs are about different queries.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    if out is None:
        out = folders[0] / (
            "show.html" if len(runs) == 1 else f"show-beside-{folders[1].resolve().name}.html"
        )
    split = split or runs[0].metrics["selected"]["split"]
    annotations = annotations or RunFolder(runs[0].folder).annotations_path(split)
    records = read_annotations(annotations).records
    predictions = [matching_predictions(run, split, records) for run in runs]
    traced = [_trace(run, records, answers) for run, answers in zip(runs, predictions, strict=True)]
    links, video_note = _links(videos, annotations.parent / VIDEOS, records, video_name, out)
    data = {
        "split": split,
        "clip_seconds": runs[0].config.data.clip_seconds,
        "kinds": list(KINDS),
        "groups": _groups(runs[0].metrics["dataset"]),
        "notes": [note for _, note in traced if note] + [video_note] * bool(video_note),
        "runs": [_describe_run(run) for run in runs],
        "videos": links,
        "samples": describe_samples(
            records,
            predictions,
            [traces for traces, _ in traced],
            PROTOCOLS[runs[0].metrics["dataset"]].length_groups,
        ),
    }
    write_atomically(out, render(runs, data))
    return out


def _describe_run(run: FinishedRun) -> dict[str, Any]:
    """What the page's scripts know about a run."""
    curves, selected = read_curves(run), run.metrics["selected"]
    return {
        "name": run.name,
        "metric": f"{selected['split']}/{selected['metric']}",
        "selected_step": selected_step(run, curves),
        "curves": {name: [curve.steps, curve.values] for name, curve in curves.items()},
    }


def _groups(dataset: str) -> dict[str, str]:
    """The dataset's groups of moment lengths, short ones first, in words."""
    groups = reversed(PROTOCOLS[dataset].length_groups.items())
    return {
        name: f"{name}: over {low:g} s" + (f", up to {high:g} s" if isfinite(high) else "")
        for name, (low, high) in groups
    }


def _trace(
    run: FinishedRun, records: Sequence[Record], predictions: Mapping[Qid, Prediction]
) -> tuple[dict[Qid, list[Trace | None]] | None, str]:
    """The traces of a run's moments, or why there are none."""
    try:
        return trace_moments(run, records, predictions, CONSIDERED), ""
    except UserError as error:
        note = f"Refinement and sampling points of {run.name} are left out: {error}."
        logger.warning("%s", note)
        return None, note


def _links(
    chosen: Path | None, usual: Path, records: Sequence[Record], name: str, out: Path
) -> tuple[dict[str, str], str]:
    """The URL of each video's file relative to the page, by vid, and a note where videos are missing."""
    if chosen is None and not usual.is_dir():
        return {}, f"No video plays: there is no folder {usual}; sdst show --videos names another."
    folder = chosen or usual
    vids = dict.fromkeys(record.vid for record in records)
    found, failures = find_videos(folder, vids, name)
    base = out.resolve().parent
    links = {vid: quote(os.path.relpath(path.resolve(), base)) for vid, path in found.items()}
    missing = f"{len(failures)} of {len(vids)} videos are not in {folder}." if failures else ""
    return links, missing


def _parser() -> Parser:
    parser = Parser(
        prog="sdst show",
        description="A finished run as one HTML page: metrics, learning curves, configuration, and every prediction "
        "beside the truth. With a second run, both side by side.",
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="a run folder, or two")
    add("--out", type=Path, metavar="F.html", help="the page (default: show.html in the run folder)")
    add("--split", help="whose predictions to show (default: the one that chose the checkpoint)")
    add(
        "--annotations",
        type=Path,
        metavar="A.jsonl",
        help="of that split, where they are not where the run had them",
    )
    add(
        "--videos",
        type=Path,
        metavar="DIR",
        help="folder of the video files, to which the page links (default: videos beside the annotations)",
    )
    add("--video-name", default="{vid}", help="a video file's name without extension, e.g. {vid}-cam-002")
    return parser
