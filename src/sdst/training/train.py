"""``sdst train``: compose the configuration and train, once or as a multirun."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdst.config.compose import check_group_choices, check_keys, compose, conf_dir, explain, register_schema
from sdst.config.words import choices_of, run_name, tags, task_words
from sdst.errors import JobsFailedError, UserError
from sdst.training.arguments import PROGRAM, flags_like, read_arguments
from sdst.training.run_folder import RunFolder
from sdst.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from omegaconf import DictConfig

    from sdst.training.arguments import Arguments

logger = logging.getLogger(__name__)

SHELLS = ("bash", "zsh", "fish")
"""Shells that Hydra completes."""
SEARCH = "hydra/sweeper=optuna"
"""Override that chooses Optuna's sweeper, which searches for good values instead of trying all."""
SEARCH_OPTIONS = ("hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1")
"""Default options of the search: maximise the metric, and continue after trials that diverged."""


def main(argv: Sequence[str]) -> int:
    """Train with the configuration of conf/train.yaml and overrides, or with ``resume=`` continue a run."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions get here instead of into Hydra's own report
    if "--version" in argv:
        sys.stdout.write(f"sdst {__version__}, Hydra {hydra.__version__}\n")
        return 0
    args = read_arguments(argv)
    try:
        if args.shows:
            _show(args)
        elif args.trusts and not args.resume:
            raise UserError(f"{PROGRAM}: trust=true is about the run that resume=RUN names; give both")
        elif not (args.resume and _resume(args)):
            check_group_choices(args.overrides)
            overrides = [*(SEARCH_OPTIONS if SEARCH in args.overrides else ()), *args.overrides]
            # Optuna imports alembic, which logs its start.
            logging.getLogger("alembic").setLevel(logging.WARNING)
            sys.argv = [PROGRAM, *(["--multirun"] if args.is_multirun else []), *args.flags, *overrides]
            _train(args, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error
    except JobsFailedError:
        return 1
    return 0


def _resume(args: Arguments) -> bool:
    """Continue the run that ``resume=`` names, and return True; False if a run has yet to be started.

    Raises:
        UserError: The run does not exist, or a flag cannot be combined with ``resume=``.
    """
    # Imported here because it imports torch, which help, completion and refusals do not need.
    from sdst.training.resume import begun_run, stored_run

    if args.is_multirun and args.resume == "auto":
        logger.info("resume=auto has no effect in a multirun, which continues its unfinished jobs anyway")
        return False
    resume = args.resume
    refused = "--multirun" if args.is_multirun else "--config-name" if args.config_name else ""
    if refused:
        raise UserError(
            f"{PROGRAM}: resume={resume} continues one run and takes no {refused}; remove one of the two"
        )
    if resume == "auto":
        resume = begun_run(args.composed)
        if not resume:
            return False
        if RunFolder(resume).is_finished:
            logger.info("%s: this run is finished; nothing to do", resume)
            return True
    from sdst.training.fit import train

    run_dir, config = stored_run(resume, args.composed, trusts=args.trusts)
    train(config, run_dir, resume=True)
    return True


def _show(args: Arguments) -> None:
    """Let Hydra show help, a configuration, information, or completions, instead of training.

    Raises:
        UserError: An override is bad, or ``--package`` names nothing.
    """
    if args.resume:
        raise UserError(f"{PROGRAM}: {args.shows} takes no resume={args.resume}; remove one of the two")
    if args.shows == "--shell-completion":
        _complete(args.overrides)
        return
    check_group_choices(args.overrides)
    jobs = list(args.jobs()) if args.is_multirun and args.shows == "--cfg" else [args.overrides]
    for number, overrides in enumerate(jobs):
        if args.shows == "--cfg" and not args.config_name:
            _check_shown(replace(args, overrides=overrides))
        if len(jobs) > 1:
            sys.stdout.write(f"{'---' * (number > 0)}\n# job {number}: {' '.join(overrides)}\n".lstrip("\n"))
        sys.argv = [PROGRAM, *args.flags, *overrides]
        with _bare_logging(), contextlib.suppress(SystemExit):  # Hydra's end of --help
            _run_hydra()


@contextlib.contextmanager
def _bare_logging() -> Iterator[None]:
    """Take away our log handlers for a while: ``--info`` adds its own, and each line would appear twice."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def _check_shown(args: Arguments) -> None:
    """Refuse unknown options before ``--cfg`` shows them, and a package that the configuration lacks."""
    config = compose(args.composed)
    if args.package not in ("", "_global_") and OmegaConf.select(config, args.package) is None:
        raise UserError(
            f"{PROGRAM}: --package {args.package} must be a part of the configuration that is not null, such as model"
        )


def _complete(arguments: Sequence[str]) -> None:
    """Install or remove shell completion, or answer a shell's query with Hydra's completions.

    Raises:
        UserError: The argument is not one of those.
    """
    command, _, shell = arguments[0].partition("=") if len(arguments) == 1 else ("", "", "")
    if command not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise UserError(
            f"{PROGRAM} -sc: expected install=SHELL or uninstall=SHELL, SHELL one of {', '.join(SHELLS)}"
        )
    folder = re.search(r"(?: -cd| --config-dir)[ =](\S+)", os.environ.get("COMP_LINE", ""))
    sys.argv = ["sdst", "-sc", *(["--config-dir", folder[1]] if folder else []), *arguments]
    if command != "query":
        if command == "uninstall" and shell != "fish":
            sys.stdout.write(
                "complete -r sdst\n"  # Hydra's script would leave the completion without its function
            )
        _run_hydra()
        return
    before, _, word = os.environ["COMP_LINE"].rpartition(" ")
    if word.startswith("-"):
        sys.stdout.write(("\n" if shell == "fish" else " ").join(flags_like(word)) + "\n")
        return
    # Hydra completes no comma-separated list, and refuses one in an earlier word: it gets only the last value of this
    # word, and the first value of earlier ones.
    given, _, last = word.rpartition(",")
    key, first = given.split("=", 1) if "=" in given else ("", "")
    asked = f"{key}={last}" if key else word
    os.environ["COMP_LINE"] = f"{re.sub(r',[^ ]*', '', before)} {asked}"
    answer = io.StringIO()
    # Hydra may refuse an unfinished command line, but the message must not appear at the shell's prompt.
    with (
        contextlib.redirect_stdout(answer),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(HydraException, OmegaConfBaseException, ValueError, SystemExit),
    ):
        _run_hydra()
    found = answer.getvalue()
    sys.stdout.write(found.replace(f"{key}=", f"{key}={first},") if key else found)


def _run_hydra() -> None:
    """Let Hydra answer a command line in sys.argv that only shows something."""
    register_schema()
    hydra.main(version_base="1.3", config_path=str(conf_dir().resolve()), config_name="train")(
        lambda _: None
    )()


def _train(args: Arguments, overrides: list[str]) -> None:
    """Train one run, or all runs of a multirun; bad input of a job is reported after the other jobs are done.

    Raises:
        UserError: Lightning is not installed, or a job was refused.
    """
    if find_spec("lightning") is None:  # here, because Hydra would log more than one line about it
        raise UserError(f"{PROGRAM}: lightning is not installed; pip install 'sdst[train]'")
    refused: list[UserError] = []
    here = os.getpid()

    def job(config: DictConfig) -> float | None:
        """Train, and return what a search maximises: the best value of the metric that selects checkpoints."""
        # Imported here because it takes seconds, and help and refusals do not need it.
        from sdst.training.fit import train

        run_dir = Path(HydraConfig.get().runtime.output_dir)
        ours = HydraConfig.get()
        try:
            check_keys(config)
            config.name = config.name or run_name(task_words(ours), config.seed)
            config.tags = config.tags or tags(choices_of(ours.runtime.choices))
            result = train(config, run_dir)
        except UserError as error:
            refused.append(error)
            with contextlib.suppress(OSError):
                run_dir.rmdir()  # made by Hydra; fails if it is not empty
            if os.getpid() != here:  # a launcher's process, whose list nobody reads
                raise
            return None
        selected = result["selected"]
        value: float = result["best"][selected["split"]][selected["metric"]]
        return value

    register_schema()
    version.setbase("1.3")
    # As hydra.main does for a command without flags, but without composing everything once more to see hydra.mode.
    application = Hydra.create_main_hydra2("train", _search_path(args.config_dir))
    name = args.config_name or "train"
    is_multirun = args.is_multirun
    if args.config_name and not is_multirun:
        is_multirun = application.get_mode(name, overrides) == RunMode.MULTIRUN
    run = application.multirun if is_multirun else application.run
    try:
        mode = RunMode.MULTIRUN if is_multirun else RunMode.RUN
        run(config_name=name, task_function=job, overrides=[*overrides, f"hydra.mode={mode.name}"])
    except ValueError:  # Optuna raises it if it has no best trial
        if not refused:
            raise
    finally:
        GlobalHydra.instance().clear()
    if refused:
        raise UserError("; ".join(str(error) for error in refused))


def _search_path(config_dir: str) -> ConfigSearchPath:
    """The conf folder, and before it the folder of ``--config-dir`` if there is one."""
    path = create_config_search_path(f"file://{conf_dir().resolve()}")
    if config_dir:
        before = SearchPathQuery(provider="schema")
        path.prepend(provider="command-line", path=f"file://{Path(config_dir).absolute()}", anchor=before)
    return path
