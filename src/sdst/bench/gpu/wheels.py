"""Packages that a machine without a network needs besides PyTorch, from the requirements of what is installed here."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTRA = "train"
"""Extra of sdst that training needs."""
ALSO = ("hydra-joblib-launcher",)
"""Packages of the parts that are skipped without them."""
THERE = "torch"
"""Package that the machine has, with all that it needs."""
PYTHONS = ("3.11", "3.12", "3.13")
"""Versions of Python whose requirements count."""
ADVICE = """\
# The machine must have torch 2.11 to 2.13 for CUDA, and Python 3.11 to 3.13. Build the wheels where there is a network,
# with the machine's version of Python and kind of processor:
#     pip wheel --no-deps --requirement LIST --wheel-dir wheels && pip wheel --no-deps --wheel-dir wheels PATH_OF_SDST
# and install them on the machine:
#     pip install --no-index --no-deps wheels/*.whl
"""


def wheels() -> str:
    """A requirements file with the versions that are installed here; its comments say how to use it.

    Raises:
        UserError: A required package is not installed here.
    """
    needed = _closure("sdst", *ALSO)
    needed -= _closure(THERE) | {"sdst"}
    return ADVICE + "".join(f"{name}=={metadata.version(name)}\n" for name in sorted(needed))


def _closure(*roots: str) -> set[str]:
    """Normalised names of distributions and of all that they need."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += _requirements(name)
    return found


def _requirements(name: str) -> Iterator[str]:
    """Names of what a distribution needs on Linux with any of :data:`PYTHONS`; without extras, except for sdst."""
    from packaging.requirements import Requirement  # Hydra needs it
    from packaging.utils import canonicalize_name

    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        raise UserError(
            f"{name} must be installed here for the list of packages; pip install {name}"
        ) from None
    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    linux["extra"] = EXTRA if name == "sdst" else ""
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        versions = [linux | {"python_version": v, "python_full_version": f"{v}.0"} for v in PYTHONS]
        if marker is None or any(marker.evaluate(version) for version in versions):
            yield canonicalize_name(requirement.name)
