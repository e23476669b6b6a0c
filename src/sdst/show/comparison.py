"""The page of a finished run, or of several side by side: one HTML file that works offline."""

from __future__ import annotations

import logging
import os
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sdst.data.annotations import of_domain, read_annotations
from sdst.errors import UserError
from sdst.features.selection import find_videos
from sdst.files.atomic import write_atomically
from sdst.files.text import encodable
from sdst.metrics.error_kinds import CONSIDERED, KINDS
from sdst.metrics.evaluation import PROTOCOLS
from sdst.runs.listing import listed, with_differences
from sdst.show.page import render
from sdst.show.runs import read_run, selected_step
from sdst.show.samples import describe_samples, has_queries_of, matching_predictions
from sdst.show.traces import trace_moments
from sdst.show.wins import compare
from sdst.training.curves import read_curves
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdst.show.runs import FinishedRun
    from sdst.show.traces import Trace
    from sdst.types import Prediction, Qid, Record

logger = logging.getLogger(__name__)

VIDEOS = "videos"
"""Default folder of the videos, next to the annotations."""


def show(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    split: str | None = None,
    annotations: Path | None = None,
    videos: Path | None = None,
    video_name: str = "{vid}",
) -> Path:
    """Write the page of a finished run, or of several side by side.

    Runs with other queries than the first are compared by metrics and curves, but not query by query; a note says so.

    Args:
        folders: Run folders, or checkpoints in them; at most :data:`~sdst.show.commands.MOST_RUNS`.
        out: HTML file to write; by default in the first run's folder.
        split: Split whose predictions are shown; by default the one that selected the first run's checkpoint.
        annotations: Annotation file of the split; by default the one in the first run's configuration.
        videos: Folder of the video files, to which the page links; by default :data:`VIDEOS` next to the annotations,
            if it exists.
        video_name: Name of a video file without extension.

    Returns:
        Path of the page.

    Raises:
        UserError: A folder is not a finished run, files are missing, or the first run has other queries than the
            annotations.
    """
    folders = [RunFolder.of(folder).path for folder in folders]
    # A multirun's links are named by what differs, so they are not followed.
    names = [Path(os.path.abspath(folder)).name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    if out is None:
        suffix = f"-vs-{names[1].replace(os.sep, '_')}" if len(runs) == 2 else "-all" if len(runs) > 2 else ""
        out = folders[0] / f"show{suffix}.html"
    split = split or runs[0].metrics["selected"]["split"]
    annotations = annotations or RunFolder(runs[0].folder).annotations_path(split)
    records = of_domain(read_annotations(annotations).records, runs[0].config.data.get("domain"), annotations)
    # Those that can be compared by query come first, because a run's place is its colour and its index in the list.
    others = [run for run in runs[1:] if not has_queries_of(run, split, records)]
    compared = [run for run in runs if run not in others]
    runs = [*compared, *others]
    predictions = [matching_predictions(run, split, records) for run in compared]
    traced = [_trace(run, records, answers) for run, answers in zip(compared, predictions, strict=True)]
    links, video_note = _links(videos, annotations.parent / VIDEOS, records, video_name, out)
    data = {
        "split": split,
        "clip_seconds": runs[0].config.data.clip_seconds,
        "kinds": list(KINDS),
        "groups": _groups(runs[0].metrics["dataset"]),
        "notes": [
            *_of_others(others, split),
            *(note for _, note in traced if note),
            *filter(None, [video_note]),
        ],
        "compared": len(compared),
        "runs": [_describe_run(run) for run in runs],
        "videos": links,
        "samples": describe_samples(
            records,
            predictions,
            [traces for traces, _ in traced],
            PROTOCOLS[runs[0].metrics["dataset"]].length_groups,
        ),
    }
    rows = with_differences([listed(run.folder) for run in runs]) if len(runs) > 1 else []
    answers = {run.name: found for run, found in zip(compared, predictions, strict=True)}
    write_atomically(out, encodable(render(runs, data, rows, compare(records, answers))))
    return out


def _of_others(runs: Sequence[FinishedRun], split: str) -> list[str]:
    """The note on runs that are not compared query by query, or none."""
    if not runs:
        return []
    names = ", ".join(f"{run.name} ({run.config.data.name})" for run in runs)
    return [f"Compared by metrics and curves only, because their queries on {split} differ: {names}."]


def _describe_run(run: FinishedRun) -> dict[str, Any]:
    """Data of a run for the page's scripts."""
    curves, selected = read_curves(run.folder, run.metrics["epochs"]), run.metrics["selected"]
    return {
        "name": run.name,
        "metric": f"{selected['split']}/{selected['metric']}",
        "selected_step": selected_step(run, curves),
        "curves": {name: [curve.steps, curve.values] for name, curve in curves.items()},
    }


def _groups(dataset: str) -> dict[str, str]:
    """Group of moment lengths -> its description, shortest group first."""
    groups = reversed(PROTOCOLS[dataset].length_groups.items())
    return {
        name: f"{name}: over {low:g} s" + (f", up to {high:g} s" if isfinite(high) else "")
        for name, (low, high) in groups
    }


def _trace(
    run: FinishedRun, records: Sequence[Record], predictions: Mapping[Qid, Prediction]
) -> tuple[dict[Qid, list[Trace | None]] | None, str]:
    """Traces of a run's moments and "", or None and a note that says why they are missing."""
    try:
        return trace_moments(run, records, predictions, CONSIDERED), ""
    except UserError as error:
        note = f"{run.name}: refinement and sampling points are not shown ({error})."
        logger.warning("%s", note)
        return None, note


def _links(
    given: Path | None, default: Path, records: Sequence[Record], name: str, out: Path
) -> tuple[dict[str, str], str]:
    """Vid -> URL of the video file relative to the page, and a note if videos are missing."""
    if given is None and not default.is_dir():
        return (
            {},
            f"Videos are not shown: folder {default} does not exist; give another with sdst show --videos.",
        )
    folder = given or default
    vids = dict.fromkeys(record.vid for record in records)
    found, failures = find_videos(folder, vids, name)
    base = out.resolve().parent
    links = {vid: quote(os.path.relpath(path.resolve(), base)) for vid, path in found.items()}
    videos = "1 video" if len(vids) == 1 else f"{len(vids)} videos"
    missing = f"Not found in {folder}: {len(failures)} of {videos}." if failures else ""
    return links, missing
