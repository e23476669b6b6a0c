"""Shell completion of ``sdst``: its commands here, and the overrides of ``sdst train`` by Hydra."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

FLAGS = ("-sc", "--shell-completion")


def complete(
    arguments: Sequence[str], commands: Collection[str], train: Callable[[Sequence[str]], int]
) -> int:
    """Answer ``sdst -sc query=SHELL``, which Hydra's completion script calls; install and uninstall are ``train``'s.

    Args:
        arguments: The arguments after ``-sc``.
        commands: Names of the commands of ``sdst``.
        train: ``sdst train``, called with its arguments.

    Returns:
        The exit status.
    """
    query = next((argument for argument in arguments if argument.startswith("query=")), None)
    if query is None:
        return train(["-sc", *arguments])
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    if point.isdecimal() and line.isascii():  # bash counts bytes
        line = line[: int(point)]
    words = line.split()
    if line.endswith(" "):
        words.append("")
    if len(words) == 2:
        separator = "\n" if query == "query=fish" else " "
        sys.stdout.write(separator.join(name for name in commands if name.startswith(words[1])) + "\n")
    elif len(words) > 2 and words[1] == "train":
        # Hydra takes the first word for the program.
        os.environ["COMP_LINE"] = line[line.index("train") :]
        return train(["-sc", query])
    return 0  # without suggestions, the shell completes file names
