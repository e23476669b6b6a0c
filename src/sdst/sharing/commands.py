"""``sdst push``: share a finished run's model as a folder, a zip file, or a repository of the Hugging Face Hub."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.console.parser import Parser
from sdst.errors import UserError
from sdst.files.atomic import atomic_path, writing_below
from sdst.sharing.contents import collect
from sdst.training.run_folder import RunFolder
from sdst.untrusted.hub import import_hub, is_address, parse_address, unreachable
from sdst.untrusted.shared_files import FILES, names_in, require_replaceable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of all members, so that equal models give equal zip files."""


def main(argv: Sequence[str]) -> int:
    """Write the model and print where it is.

    Raises:
        UserError: The run is not finished, the destination holds something else, or the Hub gives no access.
    """
    args = _parser().parse_args(argv)
    run, destination = RunFolder(args.run), args.destination
    if is_address(destination):
        repository, revision = parse_address(destination)
        if revision is not None:
            raise UserError(f"{destination}: a model is pushed to the main branch; leave out @{revision}")
        import_hub()
        files = collect(run, repository.partition("/")[2], args.license)
        sys.stdout.write(f"{_push_to_hub(files, destination, repository, args.private)}\n")
        return 0
    if args.private:
        raise UserError("sdst push: --private needs hf://user/name; leave it out")
    path = Path(destination)
    require_replaceable(names_in(path), path)
    write = _write_zip if path.suffix == ".zip" else _write_folder
    write(collect(run, path.absolute().stem, args.license), path)
    sys.stdout.write(f"{path}\n")
    return 0


def _write_folder(files: Mapping[str, bytes], path: Path) -> None:
    """Write a folder beside its place and exchange the two, so that nobody reads half of each."""
    target = path.absolute()
    new, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    with writing_below(path):
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir(parents=True)
        for name, content in files.items():
            (new / name).write_bytes(content)
        if target.exists():
            target.rename(old)
        new.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _write_zip(files: Mapping[str, bytes], path: Path) -> None:
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), content)


def _push_to_hub(files: Mapping[str, bytes], address: str, repository: str, private: bool) -> str:
    """Commit the files to a repository, made if it is missing, and return its web address.

    Raises:
        UserError: The repository holds something else, or the Hub gives no access.
    """
    hub = import_hub()
    api = hub.HfApi(library_name="sdst")
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        there = api.list_repo_files(repository)
        require_replaceable(there, address)
        operations = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
        operations += [hub.CommitOperationDelete(n) for n in there if n in FILES and n not in files]
        api.create_commit(repository, operations, commit_message="Model of sdst push")
    except UserError:
        raise
    except Exception as error:  # it raises many types, also those of its HTTP library
        raise unreachable(address, error) from error
    return str(url)


def _parser() -> Parser:
    parser = Parser(
        prog="sdst push",
        description="Share the best model of a finished run: weights, configuration, recipe of the features, metrics "
        "and a model card, without anything that names this machine. sdst.load and --checkpoint read it.",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a finished run's folder")
    add(
        "destination",
        metavar="DEST",
        help="a folder, F.zip, or hf://user/name; replaced if it is an older model",
    )
    add("--license", metavar="ID", help="licence of the weights for the card, e.g. cc-by-nc-sa-4.0")
    add("--private", action="store_true", help="make a new repository of the Hub private")
    return parser
