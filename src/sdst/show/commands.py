"""``sdst show``: one HTML file that shows a run, compares several, or lists those of a folder, and works offline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.console.parser import Parser
from sdst.errors import UserError
from sdst.training.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_RUNS = 8
"""Most runs whose predictions are shown side by side, each with a colour of its own."""


def main(argv: Sequence[str]) -> int:
    """Write the page and print its path."""
    args = _parser().parse_args(argv)
    # Imported here because the page of one run takes seconds to import, and the list of many needs none of it.
    if len(args.runs) <= MOST_RUNS and all(_is_run(path) for path in args.runs):
        from sdst.show.comparison import show

        out = show(
            args.runs,
            args.out,
            split=args.split,
            annotations=args.annotations,
            videos=args.videos,
            video_name=args.video_name,
        )
    else:
        from sdst.show.collection import show_collection

        if args.videos is not None:
            raise UserError(
                f"sdst show: --videos needs at most {MOST_RUNS} run folders; a list of runs shows no videos"
            )
        out = show_collection(args.runs, args.out, split=args.split, annotations=args.annotations)
    sys.stdout.write(f"{out}\n")
    return 0


def _is_run(path: Path) -> bool:
    """Whether a path names a run, finished or not, rather than a folder of runs."""
    return not path.is_dir() or RunFolder(path).is_begun or RunFolder(path).is_finished


def _parser() -> Parser:
    parser = Parser(
        prog="sdst show",
        description="Show a finished run as one HTML page: metrics, learning curves, configuration, and every "
        "prediction with its ground truth. Several runs are compared. Folders of runs, such as a multirun's, and "
        f"more than {MOST_RUNS} runs give one page with a table of all, groups over seeds, curves, and wins and "
        "losses by query.",
    )
    add = parser.add_argument
    add(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders, checkpoints in them, or folders of runs",
    )
    add(
        "--out",
        type=Path,
        metavar="F.html",
        help="file to write (default: show.html in the run folder, index.html in a folder of runs)",
    )
    add("--split", help="split whose predictions are shown (default: the one that selected the checkpoint)")
    add(
        "--annotations",
        type=Path,
        metavar="A.jsonl",
        help="annotations of the split (default: the file in the run's config.yaml)",
    )
    add(
        "--videos",
        type=Path,
        metavar="DIR",
        help="folder of the video files, to which the page links (default: videos, next to the annotations)",
    )
    add("--video-name", default="{vid}", help="name of a video file without extension, e.g. {vid}-cam-002")
    return parser
