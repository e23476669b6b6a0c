"""Every command in the README and the documentation runs, in order, on tiny data with the documented file names."""

import ast
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from helpers.corpus import make_rows, write_rows
from helpers.published import publish
from helpers.shared_data import needs_shared
from sdst.bench import step
from sdst.bench.report import Row
from sdst.cli import main
from sdst.config.compose import compose, conf_dir
from sdst.data.annotations import read_annotations
from sdst.features.importers.layouts import LAYOUTS
from sdst.sweeps.tables import find_experiment

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
FILES = {
    "qvhighlights": {
        "train": "highlight_train_release",
        "val": "highlight_val_release",
        "test": "highlight_test_with_gt",
    },
    "charades": {"train": "charades_train_release", "test": "charades_test_release"},
    "tacos": {"train": "train", "val": "val", "test": "test"},
    "world": {"train": "train", "val": "val", "test": "test"},
}
SMALL = ["trainer.max_epochs=1", "model.dim=16", "data.num_workers=0"]
SMALLER: dict[tuple[str, ...], list[str]] = {
    ("train", "run_dir=runs/first"): ["levels=k1"],
    ("features", "simulate"): ["--video-dim", "16", "--text-dim", "16"],
    ("world", "make"): ["--train", "1", "--val", "1", "--test", "1", "--workers", "0"],
    ("extract", "--annotations"): ["--workers", "0", "--processes", "1"],
    ("bench", "profile"): ["--rounds", "1", "--batch", "2", "--clips", "8", "--levels", "1"],
    ("bench", "gpu"): ["--wheels"],  # its own test runs it
    ("bench", "scale"): ["--rounds", "1", "--batch", "2", "--levels", "1", "--over", "clips=4,8"],
}
"""Command -> extra arguments that make it take about a second."""
NOT_RUN = ("make", "pip", "source", "jupyter")
"""Programs whose arguments are checked instead of run."""
OTHER_MACHINES = ("submitit_slurm", "submitit_local", "ray")
"""Launchers whose commands are checked instead of run."""
TRIALS = "hydra.sweeper.n_trials=2"


def fences(document: Path) -> Iterator[tuple[str, str, str]]:
    """Language, title and content of each code block."""
    for indent, language, rest, content in FENCE.findall(document.read_text(encoding="utf-8")):
        title = re.search(r'title="([^"]+)"', rest)
        yield language, title[1] if title else "", re.sub(f"^{indent}", "", content, flags=re.MULTILINE)


def commands(document: Path, *, weights: bool) -> list[list[str]]:
    """Commands that need backbone weights and videos (or files made with them) if ``weights``, else all others."""
    lines = [
        line
        for language, _, content in fences(document)
        if language == "bash" and "#SBATCH" not in content
        for line in content.replace("\\\n", "").splitlines()
    ]
    needing = [
        re.search(
            r"weights/|runs/real|real\.h5|shared\.shard|(?:data[/=]|features/)(?:charades|tacos)\b|runs/(?:charades|tacos)",
            line,
        )
        for line in lines
    ]
    return [
        shlex.split(line, comments=True)
        for line, needs in zip(lines, needing, strict=True)
        if bool(needs) == weights and line
    ]


def with_weights() -> list[Path]:
    return [document for document in DOCUMENTS if commands(document, weights=True)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with annotations and configuration at the documented paths."""
    monkeypatch.chdir(tmp_path)
    for name in ("SDST_DATA", "SDST_FEATURES", "SDST_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("SDST_CONF", str(tmp_path / "conf"))
    for name, files in FILES.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for split, file in files.items():
            write_rows(folder / f"{file}.jsonl", make_rows(split, 3))
    (tmp_path / "data/tvsum").mkdir()
    for split in ("train", "val"):
        rows = [
            row | {"domain": "BK", "label": [[[5] * 20]] * (row["duration"] // 2)}
            for row in make_rows(split, 3)
        ]
        for row in rows:
            del row["relevant_windows"], row["relevant_clip_ids"], row["saliency_scores"]
        write_rows(tmp_path / f"data/tvsum/tvsum_{split}_release.jsonl", rows)
    monkeypatch.setattr(step, "bench_step", compose_benchmark)
    return tmp_path


def compose_benchmark(configurations: Mapping[str, Sequence[str]], *_: object) -> list[Row]:
    """Replace a benchmark by composing its configurations; its own tests run it, because it starts processes."""
    return [
        {"configuration": name, "parameters": len(compose(overrides).model)}
        for name, overrides in configurations.items()
    ]


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Write videos, and a tiny official checkpoint under the name of the large one."""
    pytest.importorskip("av")
    pytest.importorskip("transformers")
    from helpers.video_run import BACKBONE, BACKBONE_CONFIG, write_coloured_video, write_vocab
    from sdst.features.backbone import sizes

    monkeypatch.setitem(sizes.PRESETS, "internvideo2-1b", sizes.read_config(BACKBONE_CONFIG))
    (place / "weights").mkdir()
    shutil.copy(BACKBONE, place / "weights" / "internvideo2-1b.pt")
    write_vocab(place / "weights" / "vocab.txt")
    for name, ending in (("qvhighlights", ""), ("charades", ""), ("tacos", "-cam-002")):
        videos = place / "data" / name / "videos"
        videos.mkdir()
        for path in videos.parent.glob("*.jsonl"):
            for record in read_annotations(path).records:
                video = videos / f"{record.vid}{ending}.mov"
                if not video.exists():
                    write_coloured_video(video, record.duration)
    write_coloured_video(place / "holiday.mov", 9.0).rename(place / "holiday.mp4")


def write_examples(document: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the titled code blocks of a document as files; modules become part of the package."""
    for _, title, content in fences(document):
        if title:
            path = place / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            if path.suffix == ".py":
                package = import_module(".".join(Path(title).parts[1:-1]))
                monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])


def prepare(found: list[list[str]], scripts: str, request: pytest.FixtureRequest) -> None:
    """Make what commands and Python code expect: features, the demo's run and a video, and ``runs/first``."""
    words = {word for command in found for word in command} | set(re.findall(r"[^\s\"]+", scripts))
    for name, out in (
        ("qvhighlights", "data/features/qvhighlights.h5"),
        ("world", "data/world/features.h5"),
    ):
        if not any(command[-2:] == ["--out", out] for command in found):
            files = expanded([f"data/{name}/*.jsonl"])
            small = SMALLER["features", "simulate"]
            assert main(["features", "simulate", *files, "--out", out, *small]) == 0
    if any("downloads/" in word for word in words):
        write_downloads()
    if any("runs/demo" in word for word in words):
        shutil.copytree(request.getfixturevalue("demo"), "runs/demo")
        shutil.move("runs/demo/run-1-epochs", "runs/demo/run")
        shutil.copy("runs/demo/world/videos/world-test-0000.mp4", "holiday.mp4")
    if "run_dir=runs/first" not in words and any(word.startswith("runs/first") for word in words):
        first = ["train", "run_dir=runs/first"]
        assert main([*first, *SMALLER[tuple(first)], *SMALL]) == 0


def write_downloads() -> None:
    """Write published features of all layouts for the annotations of QVHighlights."""
    records = [
        record
        for path in expanded(["data/qvhighlights/*.jsonl"])
        for record in read_annotations(path).records
    ]
    rows = {record.qid: (record.vid, record.duration, len(record.query.split())) for record in records}
    for layout in LAYOUTS:
        publish(layout.name, Path("downloads") / layout.name, rows)


def expanded(arguments: list[str]) -> list[str]:
    """Arguments with file patterns expanded as a shell does."""
    return [
        name
        for argument in arguments
        for name in (sorted(map(str, Path().glob(argument))) if "*" in argument else [argument])
    ]


def run(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = command
    if program in NOT_RUN:
        look_up(program, arguments)
        return
    assert program == "sdst", command
    launchers = [arg.partition("=")[2] for arg in arguments if arg.startswith("hydra/launcher=")]
    if arguments[0] == "sweep" and ("paper" in arguments or set(launchers) & set(OTHER_MACHINES)):
        look_up_sweep(arguments[1:])
    elif arguments[0] == "serve":
        # An invalid port: serve checks it last, right before it would block.
        assert main([*arguments, "--port", "99999"]) == 2
        assert "port 99999" in capsys.readouterr().err
    else:
        small = SMALLER.get(tuple(arguments[:2]), [])
        if arguments[0] == "sweep" or (arguments[0] == "train" and "--cfg" not in arguments):
            small = [
                *small,
                *SMALL,
                *([TRIALS] if any("optuna" in argument for argument in arguments) else []),
            ]
        assert main(expanded(arguments) + small) == 0, (command, capsys.readouterr().err)


def run_python(document: Path, *, weights: bool) -> None:
    """Run the Python code of a document, which finds a moment in a video."""
    names: dict[str, Any] = {}  # shared, because the blocks of a page build on each other
    for language, title, code in fences(document):
        if language == "python" and not title and ("weights/" in code) == weights:
            exec(code, names)
            assert 0 <= names["start"] < names["end"] <= names["video"].duration


def look_up(program: str, arguments: list[str]) -> None:
    """Check that the named target, extra or package exists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if program == "make":
        tables = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
        scales = {f"SCALE={path.stem}" for path in (conf_dir() / "scale").glob("*.yaml")}
        assert set(arguments) <= tables | targets | scales
    elif program == "pip":
        (extras,) = re.findall(r"^\.\[([\w,]+)\]$", arguments[-1]) or [""]
        assert set(filter(None, extras.split(","))) <= project["optional-dependencies"].keys()
        launchers = "".join(path.read_text() for path in (conf_dir() / "hydra/launcher").glob("*.yaml"))
        assert extras or arguments[-1] in launchers or arguments == ["install", "notebook"]
    elif program == "jupyter":
        assert arguments == ["notebook", "notebooks"]
        assert list((ROOT / "notebooks").glob("*.ipynb"))
    else:
        assert arguments == [".venv/bin/activate"]


def look_up_sweep(arguments: list[str]) -> None:
    """Check that a sweep for other machines names an existing table and launcher."""
    find_experiment(arguments[0], None)
    overrides = OverridesParser.create().parse_overrides([arg for arg in arguments if "=" in arg])
    for override in overrides:
        assert override.key_or_group.startswith(("hydra/launcher", "hydra.launcher."))
        if override.key_or_group == "hydra/launcher":
            assert (conf_dir() / "hydra/launcher" / f"{override.value()}.yaml").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_without_backbone_weights_run(
    document: Path,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    found = commands(document, weights=False)
    if (
        any("world" in word or "demo" in word for command in found for word in command)
        or document.stem == "python"
    ):
        pytest.importorskip("av")
        pytest.importorskip("transformers")
    write_examples(document, place, monkeypatch)
    scripts = "".join(code for language, _, code in fences(document) if language == "python")
    if "runs/demo" in scripts or any(command[0] == "sdst" for command in found):
        prepare(found, scripts, request)
    for command in found:
        run(command, capsys)
    run_python(document, weights=False)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("document", with_weights(), ids=lambda path: path.stem)
def test_commands_with_backbone_weights_run(
    document: Path, place: Path, tiny_backbone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands(document, weights=True):
        run(command, capsys)
    run_python(document, weights=True)
    if document.stem == "own-videos":
        assert (place / "holiday.png").stat().st_size > 0
        assert len(list((place / "moments").iterdir())) == 2


def test_documents_show_every_command_except_demo() -> None:
    from sdst.cli import COMMANDS

    shown = {
        command[1]
        for document in DOCUMENTS
        for weights in (True, False)
        for command in commands(document, weights=weights)
        if command[0] == "sdst"
    }
    assert COMMANDS.keys() - shown == {"demo"}  # shown as `make demo`


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_documents_name_only_existing_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    written = {title for _, title, _ in fences(document)}
    named = re.findall(r"`((?:src|conf|tests|docs|experiments)/[\w./]+)`", text)
    named += [
        os.path.relpath(document.parent / link, ROOT)
        for link in re.findall(r"\]\((?!http)([^)#]+\.\w+)\)", text)
    ]
    made = tuple(f"docs/{name}.md" for name in ("options", "small-backbone", "small-model", "security"))
    assert [name for name in named if not (ROOT / name).exists() and name not in {*written, *made}] == []


def test_paper_to_code_map_names_only_existing_symbols() -> None:
    rows = re.findall(
        r"^\|[^|]+\|([^|]+)\|([^|]*)\|$", (ROOT / "docs/paper-to-code.md").read_text(), re.MULTILINE
    )
    checked = 0
    for files, symbols in rows:
        defined: set[str] = set()
        for file in re.findall(r"`(src/[\w./]+\.py)`", files):
            for node in ast.parse((ROOT / file).read_text()).body:
                if isinstance(node, ast.ClassDef | ast.FunctionDef):
                    defined.add(node.name)
                if isinstance(node, ast.ClassDef):
                    defined |= {
                        f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)
                    }
        named = set(re.findall(r"`([\w.]+)`", symbols))
        assert named <= defined, named - defined
        checked += len(named)
    assert checked > 40
