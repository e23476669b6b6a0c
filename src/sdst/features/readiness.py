"""``sdst data check``: whether a data set is ready to train on, annotations and features, split by split."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdst.console.parser import Parser
from sdst.console.terminal import printable
from sdst.data.annotations import read_annotations
from sdst.data.fingerprint import fingerprint
from sdst.data.info import partial_path
from sdst.data.released import ABSENT, RELEASED, Released
from sdst.data.store import FeatureStore
from sdst.errors import UserError
from sdst.features.importers.coverage import measure_coverage
from sdst.features.importers.layouts import folder_kind
from sdst.features.importers.packed import is_archive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from sdst.features.importers.coverage import Coverage

MOST_FILES = 2000
"""Files of a folder that are looked at in a search; a folder of features can hold tens of thousands."""
NAMED = 3
EXIT_NOT_READY = 3


def main(argv: Sequence[str]) -> int:
    """Run ``sdst data check`` and return its exit status, 3 if something is missing.

    Raises:
        UserError: The data set is unknown, or one of its files is damaged.
    """
    parser = Parser(prog="sdst data", description="Tools for data sets.")
    tools = parser.add_subparsers(required=True, metavar="check")
    add = tools.add_parser(
        "check",
        help="say whether a data set is ready to train on",
        description="Compare a data set's annotations and features with what a run needs and with what was released. "
        "The exit status is 3 if something is missing.",
    ).add_argument
    add("data", metavar="NAME|DIR", help="a data set (qvhighlights), or its folder (data/qvhighlights)")
    add("overrides", nargs="*", metavar="OVERRIDE", help="overrides of sdst train (data.features=F.h5)")
    add("--json", action="store_true", help="print JSON, not a table")
    args = parser.parse_args(argv)
    found = check(_configured(args.data, args.overrides))
    if args.json:
        sys.stdout.write(json.dumps(_facts(found), indent=4) + "\n")
    else:
        _print(found)
    return EXIT_NOT_READY if found.problems else 0


def _configured(data: str, overrides: Sequence[str]) -> DictConfig:
    """The options ``data`` as ``sdst train data=NAME`` would configure them.

    A folder is named after its data set and stands for ``paths.data`` = its parent, so that it can lie anywhere.

    Raises:
        UserError: The data set is unknown.
    """
    from sdst.config.compose import compose, group_choices
    from sdst.config.plain_text import quoted

    path = Path(data)
    choices = group_choices()["data"]
    if path.name not in choices:
        raise UserError(f"{data}: must be a data set or its folder, one of {', '.join(choices)}")
    place = [] if data == path.name else [f"paths.data={quoted(str(path.parent))}"]
    options: DictConfig = compose([f"data={path.name}", *place, *overrides]).data
    return options


@dataclass
class SplitCheck:
    """One split of a data set.

    Attributes:
        split: Its name.
        path: Its annotation file.
        released: What the released file holds, if known.
        queries: Number of rows; 0 if the file is missing.
        videos: Number of different vids.
        sha256: First 12 hexadecimal digits of the file's SHA-256, "" if the file is missing.
        coverage: How much of it the features cover, if there are any.
    """

    split: str
    path: Path
    released: Released | None = None
    queries: int = 0
    videos: int = 0
    sha256: str = ""
    coverage: Coverage | None = None


@dataclass
class DataCheck:
    """What ``check`` found.

    Attributes:
        splits: The splits of the configuration.
        features: The configured feature file.
        store: What the feature file holds, if it can be read.
        fingerprint: Fingerprint of the features, "" without a file.
        problems: What keeps the data set from being used, each a line that names the command that mends it.
        notes: What is worth knowing and keeps nothing from being used.
    """

    splits: list[SplitCheck]
    features: Path
    store: FeatureStore | None = None
    fingerprint: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(data: DictConfig) -> DataCheck:
    """Compare a data set's files with what a run needs and with what was released.

    Args:
        data: The options ``data`` of a run; the released files are known if its name is in ``RELEASED``.

    Raises:
        UserError: An annotation file or the feature file is there but damaged.
    """
    name, features = data.name, Path(data.features)
    found = DataCheck([], features)
    paths = {str(split): Path(path) for split, path in data.annotations.items() if path is not None}
    if features.is_file():
        found.store = FeatureStore(features, pooling=data.pooling)
        found.fingerprint = fingerprint(features, data.pooling)
        stored = found.store.info.clip_seconds
        if stored != data.clip_seconds:
            found.problems.append(
                f"{features}: its clips are {stored:g} s long, those of {name} are {data.clip_seconds:g} s; train with "
                f"data.clip_seconds={stored:g} or import again"
            )
    else:
        found.problems.append(_without_features(features, list(paths.values())))
    for split, path in paths.items():
        released = RELEASED.get(name, {}).get(split)
        if not path.is_file():
            found.splits.append(SplitCheck(split, path, released))
            found.problems.append(_without_annotations(name, split, path, released))
            continue
        records = read_annotations(path).records
        row = SplitCheck(
            split, path, released, len(records), len({record.vid for record in records}), _sha256(path)
        )
        found.splits.append(row)
        if released and row.sha256 != released.sha256:
            found.notes.append(
                f"{path}: its content differs from the released file, sha256 {released.sha256}"
            )
        if found.store is not None:
            row.coverage = measure_coverage(found.store, split, records)
            _add_gaps(data, row.coverage, found)
    return found


def _add_gaps(data: DictConfig, coverage: Coverage, found: DataCheck) -> None:
    """Add what the features lack for one split: a problem, or a note if a run would go on."""
    split, features = coverage.split, found.features
    for kind, missing, total in (
        ("videos", coverage.missing_vids, coverage.num_videos),
        ("queries", coverage.missing_qids, coverage.num_queries),
    ):
        if missing:
            lacks = f"{features}: lacks {len(missing)} of {total} {kind} of {split} ({_some(missing)})"
            if data.missing == "leave_out":
                found.notes.append(f"{lacks}; a run leaves their rows out")
            elif kind == "queries" and set(missing) <= set(ABSENT.get(data.name, {}).get(split, ())):
                found.problems.append(
                    f"{lacks}; the published 6B features lack them too; leave them out with data.missing=leave_out"
                )
            else:
                found.problems.append(
                    f"{lacks}; import or extract them, or leave such rows out with data.missing=leave_out"
                )
    longer = [vid for vid, stored, expected in coverage.other_length if stored > expected]
    shorter = [vid for vid, stored, expected in coverage.other_length if stored < expected]
    if longer:
        line = f"{features}: {len(longer)} videos of {split} are longer than annotated ({_some(longer)})"
        if data.longer == "refuse":
            found.problems.append(f"{line}; cut them with data.longer=cut, or check the clip length")
        else:
            done = "cuts them to the annotation" if data.longer == "cut" else "leaves their rows out"
            found.notes.append(f"{line}; a run {done}")
    if shorter:
        found.problems.append(
            f"{features}: {len(shorter)} videos of {split} are more than a clip shorter than annotated "
            f"({_some(shorter)}); check the clip length, or import or extract them again"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _without_annotations(name: str, split: str, path: Path, released: Released | None) -> str:
    """The line about a missing annotation file, with the place where it lies under another name."""
    known = {file.sha256: (data, part) for data, parts in RELEASED.items() for part, file in parts.items()}
    near = [file for file in _files(path.parent, ".jsonl") if known.get(_sha256(file)) == (name, split)]
    if near:
        return f"{path}: missing; {near[0]} holds it: mv {shlex.quote(str(near[0]))} {shlex.quote(str(path))}"
    rows = f" ({released.queries} rows)" if released else ""
    return f"{path}: missing; put the released {split} file{rows} there (docs/real-data.md names its source)"


def _without_features(features: Path, annotations: list[Path]) -> str:
    """The line about a missing feature file: unfinished, elsewhere, or not made yet."""
    if partial_path(features).exists():
        return f"{features}: unfinished; repeat the command that writes it, which continues where it stopped"
    folders = dict.fromkeys([features.parent, *(path.parent for path in annotations)])
    for file in (file for folder in folders for file in _files(folder, ".h5")):
        try:
            store = FeatureStore(file)
            wanted = {
                record.vid
                for path in annotations
                if path.is_file()
                for record in read_annotations(path).records
            }
        except UserError:
            continue
        if wanted & set(store.vids()):
            return (
                f"{features}: missing; {file} has features of these videos: "
                f"mv {shlex.quote(str(file))} {shlex.quote(str(features))}, or set data.features={file}"
            )
    published = next(
        (entry for folder in folders for entry in _entries(folder) if _looks_published(entry)), None
    )
    source = "FOLDER" if published is None else shlex.quote(str(published.parent))
    command = f"sdst features import --from {source} --annotations {shlex.join(map(str, annotations))} --out {features}"
    if published is not None:
        return f"{features}: missing; {published} looks like published features: {command}"
    return (
        f"{features}: missing; download features to a folder and import them: {command}; or extract them "
        "(docs/real-data.md)"
    )


def _looks_published(entry: Path) -> bool:
    """Whether a folder or archive is named like those of published features."""
    return is_archive(entry.name) or folder_kind(f"{entry.name}/file") is not None


def _entries(folder: Path) -> list[Path]:
    """The first ``MOST_FILES`` entries of a folder and of its folders."""
    inside = (entry for depth in ("*", "*/*") for entry in folder.glob(depth))
    return [entry for entry, _ in zip(inside, range(MOST_FILES), strict=False)]


def _files(folder: Path, suffix: str) -> list[Path]:
    """Files with an ending in a folder and in its folders."""
    return sorted(entry for entry in _entries(folder) if entry.suffix == suffix and entry.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _facts(found: DataCheck) -> dict[str, Any]:
    """The findings as JSON values."""
    facts: dict[str, Any] = {
        "splits": [{**asdict(row), "path": str(row.path)} for row in found.splits],
        "features": str(found.features),
        "fingerprint": found.fingerprint,
        "store": None,
        "problems": found.problems,
        "notes": found.notes,
    }
    if found.store is not None:
        facts["store"] = {**asdict(found.store.info), "path": str(found.store.info.path)}
    return facts


def _print(found: DataCheck) -> None:
    lines = [_split_line(row) for row in found.splits]
    if found.store is not None:
        info = found.store.info
        lines.append(
            f"{found.features}: {'SIMULATED, ' * info.simulated}{info.backbone}, video layers "
            f"{_layers(info.video_layers)} of width {found.store.video_dim}, text layers "
            f"{_layers(info.text_layers)} of width {info.text_dim}, clips of {info.clip_seconds:g} s, "
            f"{info.num_videos} videos, {info.num_queries} queries, fingerprint {found.fingerprint[:12]}"
        )
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"to mend: {problem}" for problem in found.problems]
    lines.append(f"not ready: {len(found.problems)} to mend" if found.problems else "ready")
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))


def _split_line(row: SplitCheck) -> str:
    """One split in words: file, counts beside the released ones, how much of it has features."""
    if not row.sha256:
        return f"{row.split}: {row.path}: missing"
    released = row.released
    beside = (
        ""
        if not released
        else ", as released"
        if row.sha256 == released.sha256
        else (f" ({released.queries} on {released.videos} were released)")
    )
    line = (
        f"{row.split}: {row.path}: {row.queries} queries on {row.videos} videos{beside}, sha256 {row.sha256}"
    )
    if (cover := row.coverage) is None:
        return line
    videos = cover.num_videos - len(cover.missing_vids)
    queries = cover.num_queries - len(cover.missing_qids)
    return f"{line}; features of {videos} videos and {queries} queries"


def _layers(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
