"""``sdst bench``: how fast the project is on this machine. Every benchmark prints a table and can write JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdst.bench import report
from sdst.errors import Parser, at_least

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from sdst.bench.report import Row
    from sdst.bench.workload import Shape

SIZES = {
    "batch": (32, "queries in a batch"),
    "clips": (75, "clips of the longest video"),
    "tokens": (16, "tokens of the longest query"),
    "queries": (30, "moment queries, where the model has any"),
    "levels": (4, "levels"),
    "video-dim": (768, "width of video features"),
    "text-dim": (1024, "width of text features"),
}
"""Options of a random batch: default and help."""


def main(argv: Sequence[str]) -> int:
    """Run one benchmark."""
    args = _parser().parse_args(argv)
    import torch

    from sdst.bench import machine

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    rows: list[Row] = args.run(args)
    report.show(f"sdst bench {args.name}", rows)
    if args.out is not None:
        report.write(args.out, args.name, rows, machine.describe())
    return 0


def _step(args: Namespace) -> list[Row]:
    from sdst.bench.step import bench_step

    return bench_step(_configurations(args), _shape(args), args.rounds)


def _infer(args: Namespace) -> list[Row]:
    from sdst.bench.infer import bench_infer

    return bench_infer(_configurations(args), _shape(args), args.rounds)


def _configurations(args: Namespace) -> dict[str, list[str]]:
    """Name -> overrides: what the command line names, and what it is compared with."""
    both = [args.overrides] if args.against is None else [args.overrides, args.against]
    return {" ".join(overrides) or "default": overrides for overrides in both}


def _shape(args: Namespace) -> Shape:
    from sdst.bench.workload import Shape

    return Shape(**{option.replace("-", "_"): getattr(args, option.replace("-", "_")) for option in SIZES})


def _parser() -> Parser:
    parser = Parser(
        prog="sdst bench",
        description="How fast the project is here. Overrides are those of sdst train: model=..., "
        "trainer.precision=bf16-mixed, compile=inductor.",
    )
    benchmarks = parser.add_subparsers(required=True, metavar="BENCHMARK")

    step = benchmarks.add_parser("step", help="a training step: time, operations, memory")
    step.set_defaults(run=_step)
    infer = benchmarks.add_parser("infer", help="one query and a batch: model and decoding")
    infer.set_defaults(run=_infer)
    for benchmark in (step, infer):
        _add_overrides(benchmark)
        _add_sizes(benchmark)
        benchmark.add_argument(
            "--against",
            nargs="+",
            metavar="OVERRIDE",
            help="a second configuration, measured in the same rounds: --against model=r2_tuning",
        )
    for name, benchmark in benchmarks.choices.items():
        benchmark.set_defaults(name=name)
        add = benchmark.add_argument
        add(
            "--rounds", type=at_least(1), default=7, metavar="N", help="how often each is timed (%(default)s)"
        )
        add("--threads", type=at_least(1), metavar="N", help="of PyTorch (default: one per core)")
        add("--out", type=Path, metavar="DIR", help="also write the numbers to this folder, as JSON")
    return parser


def _add_overrides(parser: ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="the configuration (sdst train's)")


def _add_sizes(parser: ArgumentParser) -> None:
    for option, (default, text) in SIZES.items():
        parser.add_argument(
            f"--{option}", type=at_least(1), default=default, metavar="N", help=f"{text} (%(default)s)"
        )
