"""The command line of ``sdst train``: overrides and Hydra's own flags."""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from sdst.config.plain_text import quoted, readable, unquoted
from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = "sdst train"
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""What ``--info`` can show; without a value it shows all."""
MULTIRUNS = ("experiment", "hparams_search")
"""Groups whose choices set ``hydra.mode: MULTIRUN``."""
INSTEAD = {
    "--config-path": "set SDST_CONF=DIR to replace the conf folder, or give --config-dir DIR to add choices",
    "--experimental-rerun": "it unpickles a file, which can run any code; continue a run with resume=RUN",
}
"""Flags that are refused, and what to do instead."""


@dataclass(frozen=True)
class Arguments:
    """A checked command line.

    Attributes:
        overrides: All overrides but ``resume=`` and ``trust=``.
        resume: Value of ``resume=``, or "" without it.
        trusts: Whether ``trust=true`` was given, which lets a stored run build any logger.
        is_multirun: Whether the command trains several jobs.
        flags: Flags for Hydra, except ``-m``.
        shows: The flag that makes Hydra show something instead of training, or "".
        package: Value of ``--package`` beside ``--cfg job``, or "".
        config_dir: Folder of ``--config-dir``, or "".
        config_name: Value of ``--config-name``, or "".
    """

    overrides: list[str]
    resume: str
    trusts: bool
    is_multirun: bool
    flags: list[str]
    shows: str
    package: str
    config_dir: str
    config_name: str

    @property
    def composed(self) -> list[str]:
        """The overrides for :func:`sdst.config.compose.compose`, which finds the choices in ``--config-dir`` too."""
        folder = Path(self.config_dir).absolute()
        return [
            *self.overrides,
            *([f"hydra.searchpath=[{quoted(f'file://{folder}')}]"] if self.config_dir else []),
        ]

    def jobs(self) -> Iterator[list[str]]:
        """The overrides of each job of a multirun."""
        overrides = OverridesParser.create().parse_overrides(self.overrides)
        (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        yield from jobs


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Read the command line with Hydra's own parser; flags and overrides may come in any order.

    Raises:
        UserError: A flag is unknown, refused, lacks its value, or contradicts another.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    parser.allow_abbrev = False
    try:
        args, unknown = parser.parse_known_intermixed_args(_with_info(argv))
    except ArgumentError as error:
        raise UserError(f"{PROGRAM}: {error} (see {PROGRAM} --hydra-help)") from error
    if unknown:
        known = [action.option_strings[0] for action in parser._actions if action.option_strings]
        known = [flag for flag in known if flag not in INSTEAD]
        raise UserError(
            f"{PROGRAM}: unknown option {unknown[0]}; options are {', '.join(known)} and overrides like seed=1"
        )
    _check(args)
    resumed = [unquoted(arg.partition("=")[2]) for arg in args.overrides if arg.startswith("resume=")]
    shows = [
        flag for flag in ("help", "hydra_help", "cfg", "info", "shell_completion") if getattr(args, flag)
    ]
    is_multirun = args.multirun or any(map(_chooses_multirun, args.overrides))
    overrides = [arg for arg in args.overrides if not arg.startswith(("resume=", "trust="))]
    return Arguments(
        overrides=[readable(override, is_multirun=is_multirun) for override in overrides],
        resume="" if not resumed or resumed[-1] == "null" else resumed[-1],
        trusts=_trusts(args.overrides),
        is_multirun=is_multirun,
        flags=list(_flags(args)),
        shows=_flag(shows[0]) if shows else "",
        package=args.package if args.package and args.cfg == "job" else "",
        config_dir=args.config_dir or "",
        config_name=args.config_name or "",
    )


def _trusts(overrides: Sequence[str]) -> bool:
    """Whether the last ``trust=`` is true.

    Raises:
        UserError: It is neither true nor false.
    """
    given = [override.partition("=")[2] for override in overrides if override.startswith("trust=")]
    if given and given[-1] not in ("true", "false"):
        raise UserError(f"{PROGRAM}: trust must be true or false, got {given[-1]!r}")
    return given[-1:] == ["true"]


def _chooses_multirun(override: str) -> bool:
    group, _, choice = override.partition("=")
    return override == "hydra.mode=MULTIRUN" or (group in MULTIRUNS and choice != "null")


def flags_like(word: str) -> list[str]:
    """Flags that begin with ``word``, for shell completion."""
    flags = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    return [flag for flag in flags if flag.startswith(word) and flag not in (*INSTEAD, "-cp")]


def _with_info(argv: Sequence[str]) -> list[str]:
    """Put ``all`` after a ``--info`` without value, which would take the next override for its value."""
    arguments: list[str] = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        arguments.append(argument)
        if argument in ("--info", "-i") and following not in INFO and (not following or "=" in following):
            arguments.append("all")
    return arguments


def _check(args: Any) -> None:
    """Refuse flags that Hydra would answer with a traceback, or ignore."""
    for flag, instead in INSTEAD.items():
        if getattr(args, flag.lstrip("-").replace("-", "_")) is not None:
            raise UserError(f"{PROGRAM}: {flag} is not supported; {instead}")
    modes = [name for name in ("run", "multirun", "info", "shell_completion") if getattr(args, name)]
    modes = modes if args.cfg is None else [*(mode for mode in modes if mode != "multirun"), "cfg"]
    if len(modes) > 1:
        raise UserError(f"{PROGRAM}: {_flag(modes[0])} and {_flag(modes[1])} exclude each other; remove one")
    if args.resolve and args.cfg is None and not args.help:
        raise UserError(f"{PROGRAM}: --resolve needs --cfg job, hydra or all")
    if args.package is not None and args.cfg is None:
        raise UserError(f"{PROGRAM}: --package {args.package} needs --cfg job, hydra or all")
    if args.config_dir is not None and not Path(args.config_dir).is_dir():
        raise UserError(
            f"{PROGRAM}: --config-dir {args.config_dir}: no such folder; give a folder of choices"
        )


def _flags(args: Any) -> Iterator[str]:
    """The flags for Hydra, except ``-m``."""
    for name in ("help", "hydra_help", "resolve", "run", "shell_completion"):
        if getattr(args, name):
            yield _flag(name)
    for name in ("cfg", "package", "config_name", "config_dir", "info"):
        if getattr(args, name) is not None:
            yield from (_flag(name), getattr(args, name))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
