"""``sdst bench``: speed of the project on this machine. Every benchmark prints a table and can write JSON."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.bench import report
from sdst.console.parser import Parser, at_least, positive_number
from sdst.errors import UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from sdst.bench.report import Row
    from sdst.bench.workload import Shape

SIZES = {
    "batch": (32, "queries in a batch"),
    "clips": (75, "clips of the longest video"),
    "tokens": (16, "tokens of the longest query"),
    "queries": (30, "moment queries, if the model has any"),
    "levels": (4, "levels"),
    "video-dim": (768, "width of video features"),
    "text-dim": (1024, "width of text features"),
}
"""Options of the random batch -> default and help."""
AXES = {
    "clips": [75, 150, 300, 600, 1200, 2400],
    "queries": [5, 10, 30, 100, 300],
    "batch": [1, 4, 16, 64, 256],
}
"""Quantities that grow in ``sdst bench scale``, one at a time -> measured sizes."""
GPU_SECONDS = 460
"""Time of ``sdst bench gpu``, below 8 minutes: a part that is ended at its limit takes a moment longer."""


def main(argv: Sequence[str]) -> int:
    """Run one benchmark."""
    args = _parser().parse_args(argv)
    if args.name == "gpu":
        return _gpu(args)
    import torch

    from sdst.bench import machine

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    rows: list[Row] = args.run(args)
    report.show(f"sdst bench {args.name}", rows)
    if args.out is not None:
        report.write(args.out, args.name, rows, machine.describe())
        if args.name == "scale":
            from sdst.bench.scale import plot_scale

            plot_scale(rows, args.out / "scale.png")
    return 0


def _step(args: Namespace) -> list[Row]:
    from sdst.bench.step import bench_step

    return bench_step(_configurations(args), _shape(args), args.rounds)


def _profile(args: Namespace) -> list[Row]:
    from sdst.bench.profile import bench_profile

    return bench_profile(args.overrides, _shape(args), args.rounds)


def _infer(args: Namespace) -> list[Row]:
    from sdst.bench.infer import bench_infer

    return bench_infer(_configurations(args), _shape(args), args.rounds)


def _evaluate(args: Namespace) -> list[Row]:
    from sdst.bench.evaluate import bench_evaluate

    return bench_evaluate(args.predictions, args.annotations, args.rounds)


def _load(args: Namespace) -> list[Row]:
    from sdst.bench.load import bench_load

    return bench_load(args.overrides, args.workers, args.batches, args.rounds)


def _layouts(args: Namespace) -> list[Row]:
    from sdst.bench.layouts import bench_layouts

    return bench_layouts(args.videos, args.layers, args.workers, args.rounds)


def _extract(args: Namespace) -> list[Row]:
    from sdst.bench.extract import bench_extract

    return bench_extract(args.videos, args.config, args.checkpoint, args.batch, args.rounds)


def _startup(args: Namespace) -> list[Row]:
    from sdst.bench.startup import bench_startup

    return bench_startup(args.overrides, args.rounds, args.threads)


def _scale(args: Namespace) -> list[Row]:
    from sdst.bench.scale import bench_scale

    return bench_scale(args.overrides, _shape(args), dict(args.over) or AXES, args.rounds)


def _gpu(args: Namespace) -> int:
    if args.wheels:
        from sdst.bench.gpu.wheels import wheels

        sys.stdout.write(wheels())
        return 0
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                "sdst bench gpu needs a GPU that PyTorch can use, found none; "
                "--device cpu tests the script itself at tiny sizes"
            )
    from sdst.bench.gpu.run import run

    return run(args.device, args.budget, args.rounds, args.overrides, args.out, args.threads)


def _configurations(args: Namespace) -> dict[str, list[str]]:
    """Name -> overrides, first the configuration of the command line, then those of ``--against``."""
    return {" ".join(overrides) or "default": overrides for overrides in (args.overrides, *args.against)}


def _shape(args: Namespace) -> Shape:
    from sdst.bench.workload import Shape

    return Shape(**{option.replace("-", "_"): getattr(args, option.replace("-", "_")) for option in SIZES})


def _parser() -> Parser:
    parser = Parser(
        prog="sdst bench",
        description="Measure the speed of the project on this machine. Overrides are those of sdst train: model=..., "
        "trainer.precision=bf16-mixed, compile=inductor.",
    )
    benchmarks = parser.add_subparsers(required=True, metavar="BENCHMARK")

    step = benchmarks.add_parser("step", help="a training step: time, operations, memory")
    step.set_defaults(run=_step)
    infer = benchmarks.add_parser("infer", help="inference for one query and a batch: model and decoding")
    infer.set_defaults(run=_infer)
    for benchmark in (step, infer):
        benchmark.add_argument(
            "--against",
            nargs="+",
            action="append",
            default=[],
            metavar="OVERRIDE",
            help="another configuration, measured in the same rounds; repeatable: --against model=r2_tuning",
        )
    profile = benchmarks.add_parser("profile", help="time of a training step by kind of operation")
    profile.set_defaults(run=_profile)
    scale = benchmarks.add_parser("scale", help="cost per clip of a step as videos, queries or batches grow")
    scale.set_defaults(run=_scale)
    scale.add_argument(
        "--over",
        action="append",
        type=_axis,
        default=[],
        metavar="AXIS=N,N,...",
        help=f"quantity that grows, and its sizes; repeatable (default: {_format(AXES)})",
    )
    for benchmark in (step, profile, infer, scale):
        _add_sizes(benchmark)
    scale.set_defaults(batch=4)

    load = benchmarks.add_parser("load", help="loading batches from a feature file, and waiting for them")
    load.set_defaults(run=_load)
    load.add_argument(
        "--batches",
        type=at_least(2),
        default=20,
        metavar="N",
        help="batches per round (default: %(default)s)",
    )
    layouts = benchmarks.add_parser("layouts", help="random reads from feature files of several layouts")
    layouts.set_defaults(run=_layouts)
    layouts.add_argument(
        "--videos", type=at_least(1), default=400, metavar="N", help="stored videos (default: %(default)s)"
    )
    layouts.add_argument(
        "--layers", type=at_least(1), default=4, metavar="N", help="stored layers (default: %(default)s)"
    )
    for benchmark in (load, layouts):
        benchmark.add_argument(
            "--workers",
            type=at_least(0),
            nargs="+",
            default=[0, 2],
            metavar="N",
            help="numbers of loading processes (default: 0 2)",
        )

    startup = benchmarks.add_parser(
        "startup", help="time from a command to its help text or first training step"
    )
    startup.set_defaults(run=_startup)
    evaluate = benchmarks.add_parser("evaluate", help="sdst evaluate on two files, and its parts")
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("predictions", type=Path, metavar="PRED.jsonl")
    evaluate.add_argument("annotations", type=Path, metavar="GT.jsonl")
    extract = benchmarks.add_parser(
        "extract", help="decoding videos, and running the backbone on their clips"
    )
    extract.set_defaults(run=_extract)
    extract.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    extract.add_argument("--config", default="small-world", help="backbone (default: %(default)s)")
    extract.add_argument(
        "--checkpoint", type=Path, help="backbone weights, unless they are part of the package"
    )
    extract.add_argument(
        "--batch", type=at_least(1), default=16, metavar="N", help="clips per batch (default: %(default)s)"
    )

    gpu = benchmarks.add_parser(
        "gpu",
        help="all checks and measurements on one GPU, in under 8 minutes and without any data",
        description="Check and measure everything on one GPU. Overrides are those of the paper-length training.",
    )
    add = gpu.add_argument
    add(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu: tiny sizes, to test the script (default: %(default)s)",
    )
    add(
        "--budget",
        type=positive_number,
        default=GPU_SECONDS,
        metavar="SECONDS",
        help="time of all parts together (default: %(default)s)",
    )
    add("--wheels", action="store_true", help="only list the packages that a machine without a network needs")

    for benchmark in (step, profile, infer, scale, load, startup, gpu):
        benchmark.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="overrides of sdst train")
    for name, benchmark in benchmarks.choices.items():
        benchmark.set_defaults(name=name)
        add = benchmark.add_argument
        add("--rounds", type=at_least(1), default=7, metavar="N", help="timed rounds (default: %(default)s)")
        add("--threads", type=at_least(1), metavar="N", help="threads of PyTorch (default: PyTorch decides)")
        add("--out", type=Path, metavar="DIR", help="also write the numbers to this folder, as JSON")
    gpu.set_defaults(out=Path("runs/gpu-check"))
    return parser


def _add_sizes(parser: ArgumentParser) -> None:
    for option, (default, text) in SIZES.items():
        parser.add_argument(
            f"--{option}",
            type=at_least(1),
            default=default,
            metavar="N",
            help=f"{text} (default: %(default)s)",
        )


def _axis(text: str) -> tuple[str, list[int]]:
    """Parse a value of ``--over``, such as clips=75,150."""
    axis, _, sizes = text.partition("=")
    if axis not in AXES or not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", sizes):
        raise argparse.ArgumentTypeError(f"expected AXIS=N,N,... as in {_format(AXES)}; got '{text}'")
    return axis, [int(size) for size in sizes.split(",")]


def _format(axes: dict[str, list[int]]) -> str:
    return " ".join(f"{axis}={','.join(map(str, sizes))}" for axis, sizes in axes.items())
