"""One import: look at the first files of every source, decide how all are read, and copy them in one pass."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from sdst.console.progress import progress_bars
from sdst.console.terminal import printable
from sdst.data.info import partial_path, query_hash
from sdst.errors import UserError
from sdst.features.importers import layouts
from sdst.features.importers.intake import MOST_HELD, Intake, Options
from sdst.features.importers.joined import joined
from sdst.features.importers.lengths import QueryLengths, choose_clip_seconds
from sdst.features.importers.sources import FIELDS, OPTIONS, Names, matches, open_source
from sdst.features.writer import FeatureWriter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from sdst.features.importers.members import Member
    from sdst.types import Qid, Record

    Found = tuple[str, Qid, tuple[Member, ...]]

log = logging.getLogger(__name__)

DEFAULT_CLIP_SECONDS = 2.0
"""Length of a clip where no published layout is recognised."""


@dataclass(frozen=True)
class Files:
    """The files of one folder or archive, or of several that are joined.

    Attributes:
        files: (kind, vid or qid, files of it) in the order in which they can be read.
        streamed: Whether some must be read in the order of a tar archive.
    """

    files: Iterator[Found]
    streamed: bool


class Import:
    """One import.

    Args:
        args: Options of the command.
        records: All annotated rows, each query once.
        stack: Keeps archives and the writer open while it is.

    Raises:
        UserError: An option, a name or an archive cannot be used.
    """

    def __init__(self, args: argparse.Namespace, records: Sequence[Record], stack: ExitStack) -> None:
        self._args = args
        self._lengths = QueryLengths(records)
        self._durations = {record.vid: record.duration for record in records}
        self._stack = stack
        self._writer: FeatureWriter | None = None
        self._clip_seconds: float | None = None
        self._told = False
        self._totals = {"video": len(self._durations), "text": len(records)}
        chosen = layouts.find(args.layout)
        given = {"video": args.video_name, "text": args.query_name}
        self._names = Names(
            {"video": self._durations, "text": [record.qid for record in records]},
            {kind: [given[kind]] if given[kind] else layouts.name_patterns(chosen, kind) for kind in FIELDS},
        )
        self._video = Intake(
            "video",
            Options(chosen, args.video_key, _count(args.video_layers), None, args.pooling),
            is_written=lambda vid: self._open().has_video(str(vid), args.pooling),
            write=lambda vid, array: self._open().write_video(args.pooling, str(vid), array),
            check=self._settle_clip_seconds,
        )
        hashes = {record.qid: query_hash(record.query) for record in records}
        self._text = Intake(
            "text",
            Options(chosen, args.query_key, _count(args.text_layers), args.text_axes, args.pooling),
            is_written=lambda qid: self._open().has_text(qid, hashes[qid]),
            write=lambda qid, array: self._open().write_text(qid, array, hashes[qid]),
            check=lambda queries: self._lengths.require({qid: num_tokens for qid, num_tokens, _ in queries}),
        )
        self._intakes = {"video": self._video, "text": self._text}
        self._sources = list(self._open_sources())

    def run(self) -> None:
        """Copy all features and finish the file.

        Raises:
            UserError: A file or archive cannot be used, or there is none for any video or query.
        """
        with progress_bars() as bars:
            titles = {"video": "videos", "text": "queries"}
            tasks = {kind: bars.add_task(titles[kind], total=total) for kind, total in self._totals.items()}

            def take(found: Found) -> Intake:
                kind, key, members = found
                self._intakes[kind].take(key, members)
                bars.advance(tasks[kind])
                return self._intakes[kind]

            # First a look at each source, so that hardly anything is written before a refusal.
            later: list[Found] = []
            for source in self._sources:
                for found in (
                    source.files if source.streamed else islice(source.files, len(FIELDS) * MOST_HELD)
                ):
                    if self._intakes[found[0]].reading is not None and not source.streamed:
                        later.append(found)
                    elif take(found).reading is not None and source.streamed:
                        break
            if not any(source.streamed for source in self._sources):
                self._decide()
            for found in chain(later, *(source.files for source in self._sources)):
                take(found)
                self._tell()
        self._decide()
        self._finish()

    def _decide(self) -> None:
        """Decide how to read the files that were looked at.

        Raises:
            UserError: There is no file of a kind, or it is unclear how to read them.
        """
        for kind, intake in self._intakes.items():
            if not intake.keys:
                where = ", ".join(map(str, self._places(kind)))
                raise UserError(
                    f"{where}: has no file for any {FIELDS[kind]}, e.g. {self._names.example(kind)}; "
                    f"check {OPTIONS[kind]}"
                )
            intake.decide()
        self._tell()

    def _finish(self) -> None:
        for intake in self._intakes.values():
            intake.write_held()
        writer = self._open()
        lengths = {qid: writer.num_tokens(qid) for qid in self._text.keys}
        self._lengths.require(lengths, f" and delete {partial_path(self._args.out)}")
        if self._video.num_cut:
            log.info("%d videos were cut to the shortest of their joined features", self._video.num_cut)
        args, found = self._args, dict[str, Any]()
        if args.backbone is None:
            found["backbone"] = self._backbone()
        if args.clip_seconds is None:
            found["clip_seconds"] = self._clip_seconds
        if args.video_layers is None:
            found["video_layers"] = self._numbers("video")
        if args.text_layers is None:
            found["text_layers"] = self._numbers("text")
        if any(intake.simulated for intake in self._intakes.values()):
            found["simulated"] = True
        writer.finish(**found)

    def _open_sources(self) -> Iterator[Files]:
        """The files of each folder and archive; all are listed, as far as possible, before any is read."""
        args = self._args
        specific = {"video": args.videos, "text": args.queries}
        rest = [kind for kind, paths in specific.items() if not paths]
        if bool(rest) != bool(args.roots):
            raise UserError("expected --from, or --videos and --queries, or --from and one of them")
        seen: dict[tuple[str, str], str] = {}
        if len(args.videos) > 1:
            sources = [open_source(path, self._stack) for path in args.videos]
            parts = [matches(source, self._names, ["video"], {}) for source in sources]
            streamed = [bool(source.tars) for source in sources]
            yield Files(joined(parts, streamed), any(streamed))
        single = [(path, ["video"]) for path in args.videos] if len(args.videos) == 1 else []
        single += [(path, ["text"]) for path in args.queries]
        single += [(path, rest) for path in args.roots]
        for path, kinds in single:
            source = open_source(path, self._stack)
            found = matches(source, self._names, kinds, seen)
            yield Files(((kind, key, (member,)) for kind, key, member in found), bool(source.tars))

    def _places(self, kind: str) -> list[Path]:
        specific: list[Path] = self._args.videos if kind == "video" else self._args.queries
        return specific or list(self._args.roots)

    def _open(self) -> FeatureWriter:
        """The writer, opened at first use, so that a refusal before it leaves nothing behind."""
        if self._writer is None:
            args = self._args
            asked = ("layout", "pooling", "video_key", "query_key", "text_axes")
            self._writer = self._stack.enter_context(
                FeatureWriter(
                    args.out,
                    backbone=args.backbone,
                    video_layers=args.video_layers,
                    text_layers=args.text_layers,
                    clip_seconds=args.clip_seconds,
                    settings={name: getattr(args, name) for name in asked},
                )
            )
        return self._writer

    def _settle_clip_seconds(self, videos: Sequence[tuple[Qid, int, tuple[int, ...]]]) -> None:
        if self._clip_seconds is not None:
            return
        given, layout = self._args.clip_seconds, self._layout("video")
        choices = (given,) if given else layout.clip_seconds if layout else (DEFAULT_CLIP_SECONDS,)
        self._clip_seconds = choose_clip_seconds(videos, self._durations, choices)
        if self._args.backbone is None and self._backbone() is None:
            raise UserError(
                f"{self._video.folder}: no published layout; name the network with --backbone NAME"
            )

    def _layout(self, kind: str) -> layouts.Layout | None:
        """The recognised layout of a kind: one that fits both kinds if there is one."""
        own = self._intakes[kind].candidates
        both = [
            layout for layout in own if all(layout in intake.candidates for intake in self._intakes.values())
        ]
        return next(iter([*both, *own]), None)

    def _backbone(self) -> str | None:
        layout, reading = self._layout("video"), self._video.reading
        return layout.backbone(self._video.folder, reading.width) if layout and reading else None

    def _numbers(self, kind: str) -> list[int]:
        """The layer numbers of a kind: given, or such that the last is the backbone's last where it is known."""
        given = self._args.video_layers if kind == "video" else self._args.text_layers
        reading, layout = self._intakes[kind].reading, self._layout(kind)
        assert reading is not None  # decided
        last = (layout.files(kind).last_layer if layout else None) or reading.num_layers
        return given or list(range(last - reading.num_layers + 1, last + 1))

    def _tell(self) -> None:
        """Print once what was recognised."""
        video, text = self._video.reading, self._text.reading
        if self._told or video is None or text is None:
            return
        self._told = True
        of_video, of_text = (layout.name if (layout := self._layout(kind)) else None for kind in FIELDS)
        first = f"layout {of_video}" if of_video else "no published layout"
        if of_video != of_text:
            first = f"videos in {of_video or 'no published'} layout, queries in {of_text or 'no published'} layout"
        order = ", layers first" if text.layers_first else ""
        video_layers, text_layers = (",".join(map(str, self._numbers(kind))) for kind in FIELDS)
        line = (
            f"{first}: {self._args.backbone or self._backbone()}, {self._args.clip_seconds or self._clip_seconds:g} s "
            f"clips; videos {video.width} wide ({self._video.dtype}), stored as layers {video_layers}; queries "
            f"{text.width} wide ({self._text.dtype}{order}), stored as layers {text_layers}"
        )
        if any((layout := self._layout(kind)) and layout.files(kind).last_layer for kind in FIELDS):
            line += "; where not named, layers are numbered so that the last is the backbone's last"
        sys.stdout.write(printable(line) + "\n")


def _count(layers: list[int] | None) -> int | None:
    return None if layers is None else len(layers)
