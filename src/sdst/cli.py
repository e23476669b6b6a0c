"""The ``sdst`` console script: one table of commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from sdst.console.terminal import log_to_stderr, printable
from sdst.errors import UserError
from sdst.files.atomic import FULL
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "train": (
        "sdst.training.train",
        "train, validate and test (Hydra: sdst train data=qvhighlights optim.lr=2e-4)",
    ),
    "sweep": ("sdst.sweeps.commands", "train all rows of one of the paper's tables or figures"),
    "report": ("sdst.reports.commands", "a table or figure: ours beside the paper's"),
    "show": (
        "sdst.show.commands",
        "a run, or two side by side, as a page: metrics, curves, every prediction",
    ),
    "evaluate": ("sdst.metrics.commands", "score any model's prediction file against annotations"),
    "analyze": (
        "sdst.analysis.commands",
        "what predictions get right and wrong, by what is asked, and what could be reached",
    ),
    "predict": (
        "sdst.inference.commands",
        "moments and saliency for queries about videos or stored features",
    ),
    "serve": ("sdst.serve.commands", "a page on this machine: drop a video, ask it, play the moments"),
    "extract": ("sdst.features.extract", "videos and their annotated queries to a feature file"),
    "features": ("sdst.features.commands", "feature files: inspect, validate, merge, import, simulate"),
    "world": (
        "sdst.world.commands",
        "an invented world of moving shapes: make its videos, run SDST in it",
    ),
    "bench": ("sdst.bench.commands", "how fast it is here, and what a step costs"),
    "demo": ("sdst.world.demo", "the whole path on a small world: videos, features, training, answers"),
}
"""Command -> (module with a ``main(argv) -> exit status``, one line of help)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; 2 after a user error, told in one line on stderr."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return 0 if args else 2
    if args[0] == "--version":
        sys.stdout.write(f"sdst {__version__}\n")
        return 0
    log_to_stderr()
    try:
        if args[0] not in COMMANDS:
            raise UserError(f"'{args[0]}' is no command; choose from {', '.join(COMMANDS)}")
        module = importlib.import_module(COMMANDS[args[0]][0])
        status: int = module.main(args[1:])
        return status
    except UserError as error:
        sys.stderr.write(f"sdst: error: {printable(' '.join(str(error).split()))}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our stdout (head, less) left; keep the interpreter from complaining on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in FULL:
            advice = "free some space and repeat the command"
        elif error.filename is not None:
            advice = "check the path"
        else:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        sys.stderr.write(f"sdst: error: {printable(place)}{error.strerror}; {advice}\n")
        return 2


def _help() -> str:
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    return (
        "usage: sdst COMMAND [options]\n\n"
        "Sparse-Dense Side-Tuner for video temporal grounding.\n\ncommands:\n" + "\n".join(lines) + "\n\n"
        "sdst COMMAND --help tells a command's options; sdst --version the version.\n"
    )
