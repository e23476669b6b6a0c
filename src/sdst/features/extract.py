"""``sdst extract``: make a feature file from annotated videos and their queries (Sec. 4, eq. 15).

Worker processes decode while the backbone computes. Every video and query is written when it is complete, so
repeating a command that was killed continues where it stopped. With ``--processes n`` the command starts n processes
that share the videos. With ``--shard i/n`` each of n runs, perhaps on several machines, takes every n-th video with its
queries, and ``sdst features merge`` joins their files.

A missing or unreadable video (see ``sdst.features.video``) does not stop the run: it is reported at the end
and listed with the reason in ``<out>.failed.jsonl``, its queries are left out, and the exit status is 3. The
feature file is complete for all other videos. Once the listed videos are repaired,
``--only <out>.failed.jsonl`` with another ``--out`` extracts them, and ``sdst features merge`` adds them.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdst.console.parser import Parser, at_least, positive_number
from sdst.console.progress import progress_bars
from sdst.console.terminal import printable
from sdst.errors import UserError
from sdst.features.selection import choose_records, find_videos, read_records
from sdst.files.atomic import write_atomically
from sdst.files.orphans import explain_dead_worker
from sdst.spans import count_clips

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdst.features.backbone.backbone import Backbone
    from sdst.features.video import ClipSpec
    from sdst.types import Record

logger = logging.getLogger(__name__)

EXIT_SOME_FAILED = 3
POOLING_HELP = "how a clip's tokens become one vector; several are stored side by side (adaptive)"


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status, 3 if some videos failed.

    Raises:
        UserError: An option or file cannot be used.
    """
    args = _parser().parse_args(argv)
    _check_backbone(args)
    from sdst.features.shards import shard_path  # imports HDF5, which --help does not need

    out = args.out if args.shard is None else shard_path(args.out, *args.shard)
    if out.exists():
        raise UserError(f"{out}: already exists and is never overwritten; delete it or choose another name")
    records = choose_records(read_records(args.annotations), args.only, args.shard)
    vids = dict.fromkeys(record.vid for record in records)
    if args.processes > 1:
        return _extract_in_processes(args, argv, min(args.processes, len(vids)))
    paths, failures = find_videos(args.videos, vids, args.video_name)

    import torch

    from sdst.features.allocator import keep_freed_memory
    from sdst.features.backbone.backbone import load_backbone, usable_device
    from sdst.features.threads import at_most_threads, usable_cores

    dtypes = {"float32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    device = usable_device(args.device)
    backbone = load_backbone(
        args.checkpoint, args.config, vocab=args.vocab, device=device, dtype=dtypes[args.dtype]
    )
    keep_freed_memory()
    free = usable_cores() - args.workers if device.type == "cpu" else torch.get_num_threads()
    with explain_dead_worker("--workers", "repeat the command to continue"), at_most_threads(free):
        failures |= _extract(args, out, backbone, records, paths)
    return _report(out, failures)


def recipe(backbone: Backbone, spec: ClipSpec) -> dict[str, Any]:
    """How features are made, for the attributes of the feature file. Equal recipes give equal features."""
    return {**backbone.recipe(), "resize": spec.resize, "antialias": spec.antialias}


def _extract_in_processes(args: argparse.Namespace, argv: Sequence[str], count: int) -> int:
    """Extract ``count`` shards at once and join them; returns the exit status."""
    from sdst.features.shards import extract_in_processes, join, require_finished

    if args.shard is not None:
        raise UserError("--processes divides the videos itself; give it or --shard, not both")
    find_videos(args.videos, (), args.video_name)
    import torch

    devices = [args.device] if args.device else [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    statuses = extract_in_processes([*argv, "--processes", "1"], args.out, count, devices or [None])
    require_finished(args.out, statuses, allowed=(0, EXIT_SOME_FAILED))
    join(args.out, count)
    listing = args.out.with_suffix(".failed.jsonl")
    rows = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    return _report(args.out, {row["vid"]: row["reason"] for row in map(json.loads, rows)})


def _extract(
    args: argparse.Namespace,
    out: Path,
    backbone: Backbone,
    records: Sequence[Record],
    paths: dict[str, Path],
) -> dict[str, str]:
    """Write the feature file, log the throughput and return vid -> reason of the unreadable videos."""
    from sdst.features.clip_loader import load_clips
    from sdst.features.encode import encode_queries, encode_videos
    from sdst.features.video import ClipSpec
    from sdst.features.writer import FeatureWriter

    sizes = backbone.vision_config
    spec = ClipSpec(args.clip_seconds, sizes.num_frames, sizes.img_size, args.resize, args.antialias)
    video_layers = _layers("video", args.video_layers, args.layers, sizes.depth)
    text_layers = _layers("text", args.text_layers, args.layers, backbone.text_config.fusion_layer)
    attrs = recipe(backbone, spec)
    durations = {record.vid: record.duration for record in records}
    with FeatureWriter(
        out,
        backbone=attrs.pop("backbone"),
        video_layers=video_layers,
        text_layers=text_layers,
        clip_seconds=spec.clip_seconds,
        extra=attrs,
    ) as writer:
        todo = [
            (vid, path)
            for vid, path in paths.items()
            if not all(writer.has_video(vid, pooling) for pooling in args.pooling)
        ]
        if len(todo) < len(paths):
            logger.info("%s: %d of %d videos are already done", out, len(paths) - len(todo), len(paths))
        with progress_bars() as progress:
            total = sum(count_clips(durations[vid], spec.clip_seconds) for vid, _ in todo)
            task = progress.add_task("clips", total=total)
            encoded = encode_videos(
                backbone,
                load_clips(todo, spec, args.batch_size, args.workers),
                writer,
                video_layers,
                args.pooling,
                lambda count: progress.advance(task, count),
            )
            usable = [r for r in records if r.vid in paths and r.vid not in encoded.failures]
            task = progress.add_task("queries", total=len(usable))
            encode_queries(backbone, usable, writer, text_layers, lambda count: progress.advance(task, count))
        # Of videos that an interrupted run has written, the length is known in whole clips only.
        lengths = {
            vid: writer.num_clips(vid, args.pooling[0]) * spec.clip_seconds
            for vid in paths
            if writer.has_video(vid, args.pooling[0])
        }
        if usable:
            writer.finish()
    _list_other_lengths(out, lengths | encoded.durations, durations, spec.clip_seconds)
    logger.info(encoded.throughput())
    return encoded.failures


def _check_backbone(args: argparse.Namespace) -> None:
    from sdst.features.backbone.sizes import SHIPPED

    given = args.checkpoint is not None, args.vocab is not None
    if given != (True, True) and (any(given) or args.config not in SHIPPED):
        shipped = " or ".join(f"--config {name}" for name in SHIPPED)
        raise UserError(f"sdst extract: give --checkpoint and --vocab, or {shipped} without them")


def _report(out: Path, failures: dict[str, str]) -> int:
    listing = out.with_suffix(".failed.jsonl")
    if not failures:
        listing.unlink(missing_ok=True)  # left by an earlier run
        return 0
    rows = (json.dumps({"vid": vid, "reason": reason}) for vid, reason in failures.items())
    write_atomically(listing, "\n".join(rows) + "\n")
    for vid, reason in failures.items():
        sys.stderr.write(printable(f"{vid}: {reason}") + "\n")
    sys.stderr.write(f"{len(failures)} videos failed; they are listed in {listing}\n")
    return EXIT_SOME_FAILED


def _layers(tower: str, chosen: list[int] | None, last: int, depth: int) -> list[int]:
    layers = chosen or list(range(depth - last + 1, depth + 1))
    if layers[0] < 1 or layers[-1] > depth or layers != sorted(set(layers)):
        raise UserError(
            f"{tower} layers must go from shallow to deep and lie from 1 to {depth}, got {layers}"
        )
    return layers


def _list_other_lengths(
    out: Path, actual: dict[str, float], annotated: dict[str, float], clip_seconds: float
) -> None:
    """Warn of videos whose length differs from the annotation by more than a clip, and list them in a file.

    Such a file is probably another cut of the video, or the whole video where a trimmed one was annotated. Without a
    warning it would only look like a hard sample.
    """
    different = [
        vid
        for vid, seconds in actual.items()
        if abs(count_clips(seconds, clip_seconds) - count_clips(annotated[vid], clip_seconds)) > 1
    ]
    listing = out.with_suffix(".lengths.jsonl")
    if not different:
        listing.unlink(missing_ok=True)  # left by an earlier run
        return
    rows = (
        json.dumps({"vid": vid, "seconds": round(actual[vid], 3), "annotated": annotated[vid]})
        for vid in different
    )
    write_atomically(listing, "\n".join(rows) + "\n")
    first = "; ".join(f"{vid}: {actual[vid]:.1f} s, not {annotated[vid]:.1f} s" for vid in different[:3])
    logger.warning(
        "%d of %d videos differ from their annotated length by more than a clip (%s%s); they are listed in %s; "
        "data.longer=cut or data.longer=leave_out trains although some are longer",
        len(different),
        len(actual),
        first,
        "; ..." if len(different) > 3 else "",
        listing,
    )


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"must be i/n with i from 0 to n - 1, got '{text}'")
    return int(match[1]), int(match[2])


def layer_numbers(text: str) -> list[int]:
    """An argparse type: layer numbers such as 31,34,37,40."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"must be a list such as 31,34,37,40, got '{text}'")
    return [int(number) for number in text.split(",")]


def _parser() -> Parser:
    parser = Parser(
        prog="sdst extract", description="Make a feature file from annotated videos and their queries."
    )
    add = parser.add_argument
    add("--annotations", type=Path, nargs="+", required=True, metavar="A.jsonl", help="annotation files")
    add("--videos", type=Path, required=True, metavar="DIR", help="folder of the video files")
    add("--video-name", default="{vid}", help="file name without extension, e.g. {vid}-cam-002 (%(default)s)")
    add("--checkpoint", type=Path, help="InternVideo2 stage-2 weights, .pt or .safetensors")
    add("--config", default="internvideo2-1b", help="backbone preset or JSON file (%(default)s)")
    add("--vocab", type=Path, help="vocab.txt of bert-large-uncased")
    add("--out", type=Path, required=True, metavar="F.h5", help="feature file to write")
    add("--layers", type=at_least(1), default=4, help="store the last N layers of both towers (%(default)s)")
    add("--video-layers", type=layer_numbers, help="vision layers to store instead, e.g. 31,34,37,40")
    add("--text-layers", type=layer_numbers, help="text layers to store instead, e.g. 16,17,18,19")
    add("--pooling", nargs="+", choices=["adaptive", "avg", "cls"], default=["adaptive"], help=POOLING_HELP)
    add("--clip-seconds", type=positive_number, default=2.0, help="length of a clip (%(default)s)")
    add("--resize", choices=["stretch", "crop"], default="stretch", help="how to make squares (%(default)s)")
    add("--antialias", action="store_true", help="smooth frames before shrinking them")
    add("--batch-size", type=at_least(1), default=16, help="clips per backbone step (%(default)s)")
    add("--dtype", choices=["float32", "fp16", "bf16"], default="float32", help="precision (%(default)s)")
    add("--device", help="e.g. cuda:1 (default: the first GPU, or the CPU)")
    add("--workers", type=at_least(0), default=2, help="decoding processes (%(default)s)")
    add(
        "--processes", type=at_least(1), default=1, help="share the videos among N processes and all GPUs (1)"
    )
    add("--shard", type=_shard, metavar="I/N", help="only part I (from 0) of N parts of the videos")
    add("--only", type=Path, metavar="F.failed.jsonl", help="only the videos listed in this file")
    return parser
