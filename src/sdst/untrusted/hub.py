"""Models of the Hugging Face Hub, by addresses like ``hf://user/name`` or ``hf://user/name@revision``."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sdst.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?")


def is_address(path: str | Path) -> bool:
    """Whether a path is meant as an address of the Hub."""
    return str(path).startswith(SCHEME)


def parse_address(address: str) -> tuple[str, str | None]:
    """The repository, as ``user/name``, and the revision of an address.

    Raises:
        UserError: The address has another form.
    """
    if (match := ADDRESS.fullmatch(address)) is None:
        raise UserError(f"{address}: expected hf://user/name or hf://user/name@revision; correct the address")
    return match["repository"], match["revision"]


def import_hub() -> ModuleType:
    """The package ``huggingface_hub``.

    Raises:
        UserError: It is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "hf:// needs huggingface_hub, which is not installed; pip install 'sdst[hub]'"
        ) from error
    return huggingface_hub


def download(address: str, names: Sequence[str]) -> Path:
    """Folder of the cache with the named files of a repository; other files are not downloaded.

    Files in the cache are not downloaded again. Without a network, or with HF_HUB_OFFLINE=1, the cache is used alone.

    Raises:
        UserError: The address is wrong, the repository cannot be reached, or ``huggingface_hub`` is not installed.
    """
    repository, revision = parse_address(address)
    hub = import_hub()
    try:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(names)))
    except Exception as error:  # it raises many types, also those of its HTTP library
        raise unreachable(address, error) from error


def unreachable(address: str, error: Exception) -> UserError:
    """The error that says why the Hub refused a request, or did not answer it."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"{address}: the Hugging Face Hub gives no access ({reason}); check the address, the network, and the login "
        "(hf auth login)"
    )
