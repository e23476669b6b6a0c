"""The ``sdst`` command: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING

from sdst.console import completion
from sdst.console.terminal import log_to_stderr, printable
from sdst.errors import UserError
from sdst.files.atomic import FULL
from sdst.files.shipped import conf_folder
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMMANDS = {
    "train": (
        "sdst.training.train",
        "train, validate and test (Hydra: sdst train data=qvhighlights optim.lr=2e-4)",
    ),
    "sweep": ("sdst.sweeps.commands", "train all rows of one of the paper's tables or figures"),
    "report": ("sdst.reports.commands", "print or save a table or figure with the paper's numbers beside it"),
    "runs": ("sdst.runs.commands", "list, filter and sort runs: state, metrics, age, size"),
    "show": (
        "sdst.show.commands",
        "show a run, or compare several, as a page: metrics, curves, every prediction",
    ),
    "evaluate": ("sdst.metrics.commands", "score any model's prediction file against annotations"),
    "analyze": (
        "sdst.analysis.commands",
        "find what predictions get right and wrong, by kind of query, and what could be gained",
    ),
    "predict": (
        "sdst.inference.commands",
        "find moments and saliency for queries about videos or stored features",
    ),
    "serve": (
        "sdst.serve.commands",
        "serve a page on this machine: drop a video, ask about it, play the moments",
    ),
    "push": ("sdst.sharing.commands", "share a run's model: a folder, a zip file, or the Hugging Face Hub"),
    "export": ("sdst.sharing.export", "write a run's model as one file for torch.export or ONNX Runtime"),
    "extract": ("sdst.features.extract", "extract features of videos and their queries into one file"),
    "features": ("sdst.features.commands", "inspect, validate, merge, import or simulate feature files"),
    "data": ("sdst.features.readiness", "check whether a data set is ready: annotations and features"),
    "world": (
        "sdst.world.commands",
        "make videos of a synthetic world of moving shapes, or train its small backbone",
    ),
    "bench": ("sdst.bench.commands", "measure speed and memory on this machine"),
    "demo": ("sdst.world.demo", "run all steps on a small world: videos, features, training, answers"),
}
"""Command -> (module with a ``main(argv) -> exit status``, one line of help)."""

GOES_ON = {
    "train": "; a run that has begun continues with: sdst train resume=latest",
    **dict.fromkeys(
        ("sweep", "extract", "features", "world", "demo"), "; repeat the command to continue where it stopped"
    ),
}
"""Command -> how it goes on after Ctrl-C, if it can."""
GROUPS = ("data", "model", "attention", "order", "levels", "pooling", "loss", "scale", "recipe", "experiment")
"""Groups of the configuration that the help lists, if they exist."""
LINE = 90
"""Length at which a line of choices is broken."""
TRAINING = ("lightning", "torchmetrics")
"""Packages of the extra ``train``, which the other commands do not need."""
NEW_OBJECTS = 50_000
"""New objects after which Python looks for unused cycles; with its usual 700, importing Lightning takes longer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a user error prints one line on stderr and returns 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return 0 if args else 2
    if args[0] == "--version":
        sys.stdout.write(f"sdst {__version__}\n")
        return 0
    log_to_stderr()
    gc.set_threshold(max(NEW_OBJECTS, gc.get_threshold()[0]))
    try:
        if args[0] in completion.FLAGS:
            return completion.complete(args[1:], COMMANDS, lambda rest: _run("train", rest))
        if args[0] not in COMMANDS:
            raise UserError(_unknown_command(args[0]))
        return _run(args[0], args[1:])
    except UserError as error:
        sys.stderr.write(f"sdst: error: {printable(' '.join(str(error).split()))}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"sdst {args[0]}: interrupted{GOES_ON.get(args[0], '')}\n")
        return 130
    except BrokenPipeError:
        # The reader of our stdout (head, less) has closed it; without this the interpreter complains on exit.
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


def _run(command: str, arguments: Sequence[str]) -> int:
    try:
        status: int = importlib.import_module(COMMANDS[command][0]).main(arguments)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING:
            raise
        raise UserError(f"sdst {command}: {error.name} is not installed; pip install 'sdst[train]'") from None
    return status


def _unknown_command(name: str) -> str:
    import difflib  # only needed here, and `sdst --help` should stay fast

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    suggestion = f" (did you mean '{close[0]}'?)" if close else ""
    return f"unknown command '{name}'{suggestion}; choose from {', '.join(COMMANDS)}"


def _help() -> str:
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    return (
        "usage: sdst COMMAND [options]\n\n"
        "Sparse-Dense Side-Tuner for video temporal grounding.\n\ncommands:\n" + "\n".join(lines) + "\n\n"
        "choices of sdst train (GROUP=CHOICE; with -m, several as GROUP=A,B train once with each):\n"
        + "".join(_choices())
        + "\nsdst COMMAND --help lists a command's options; sdst --version prints the version.\n"
        'eval "$(sdst -sc install=bash)" completes commands and choices with the tab key.\n'
    )


def _choices() -> Iterator[str]:
    """The configuration's groups and their choices, read from the folder because importing Hydra takes long."""
    folder = conf_folder()
    for group in GROUPS:
        choices = sorted(file.stem for file in (folder / group).glob("*.yaml"))
        line = ""
        for word in (f"{choice}," for choice in choices[:-1]):
            if len(line) + len(word) > LINE:
                yield f"  {group:<10} {line.rstrip()}\n"
                group, line = "", ""
            line += f"{word} "
        if choices:
            yield f"  {group:<10} {line}{choices[-1]}\n"
