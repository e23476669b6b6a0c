"""A demo with a few videos and one epoch, and its printed output."""

from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from sdst.cli import main
from sdst.features import extract
from sdst.world import demo
from sdst.world.commands import make_world

VIDEOS = (1, 1, 1)


def run_demo(out: Path) -> int:
    """Run ``sdst demo`` without worker processes, because their start would take longer than the work."""
    options = ["--out", str(out), "--videos", *map(str, VIDEOS), "--epochs", "1"]
    whole = extract.main

    def extract_here(arguments: list[str]) -> int:
        return whole([*arguments, "--workers", "0"])

    def make_here(folder: Path, counts: dict[str, int], *, queries: int, workers: int) -> dict[str, Path]:
        return make_world(folder, counts, queries=queries)

    with patch.object(extract, "main", extract_here), patch.object(demo, "make_world", make_here):
        return main(["demo", *options])


def make_demo(out: Path) -> None:
    out.mkdir()
    with (out / "printed.txt").open("w") as printed, redirect_stdout(printed):
        assert run_demo(out) == 0
