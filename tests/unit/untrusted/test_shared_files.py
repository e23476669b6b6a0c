"""Shared models from strangers are refused in one line that names the file, before anything is built or unpacked."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sdst.errors import UserError
from sdst.training import checkpoint
from sdst.training.run_folder import find_checkpoint
from sdst.untrusted import shared_files
from sdst.untrusted.shared_files import CONFIG, RECIPE, WEIGHTS, WORDS

safetensors = pytest.importorskip("safetensors.torch")

Files = dict[str, bytes]
SMALL_WORLD = Path(shared_files.__file__).parents[1] / "inference" / "small_world"


@pytest.fixture
def good() -> Files:
    """The files of a model that loads."""
    return {name: (SMALL_WORLD / name).read_bytes() for name in (WEIGHTS, CONFIG, RECIPE, WORDS)}


def write_folder(files: Files, place: Path) -> Path:
    (place / "model").mkdir()
    for name, content in files.items():
        (place / "model" / name).write_bytes(content)
    return place / "model"


def write_zip(files: Files, place: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(place / "model.zip", "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return place / "model.zip"


def with_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        config = yaml.safe_load(files[CONFIG])
        change(config)
        files[CONFIG] = yaml.safe_dump(config).encode()

    return apply


def with_recipe(**changes: Any) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        content = json.loads(files[RECIPE])
        content["recipe"] |= changes
        files[RECIPE] = json.dumps(content).encode()

    return apply


def with_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        tensors = safetensors.load(files[WEIGHTS])
        change(tensors)
        files[WEIGHTS] = safetensors.save(tensors)

    return apply


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
HOSTILE: dict[str, tuple[Callable[[Files], object], str]] = {
    "another target": (
        with_config(lambda c: c["model"].update(_target_="os.system")),
        "must build a model of sdst",
    ),
    "a target below": (
        with_config(lambda c: c["model"].update(dim={"_target_": "os.system"})),
        "model of sdst",
    ),
    "a target that acts": (
        with_config(lambda c: c["model"].update(_target_="sdst.__main__")),
        "model of sdst",
    ),
    "an interpolation": (with_config(lambda c: c.update(name="${oc.env:HOME}")), "interpolation"),
    "an unknown option": (with_config(lambda c: c.update(nonsense=1)), "nonsense"),
    "YAML that grows": (lambda f: f.update({CONFIG: b"a: &a [1]\nb: *a\n"}), "alias"),
    "a YAML tag": (
        lambda f: f.update({CONFIG: b"a: !!python/object/apply:os.system [ls]\n"}),
        "not the YAML",
    ),
    "no YAML": (lambda f: f.update({CONFIG: b"\xff\xfe"}), "must be UTF-8"),
    "huge sizes": (with_config(lambda c: c["model"].update(dim=10**9)), "sizes larger than any weight"),
    "more levels": (with_config(lambda c: c["levels"].update(count=10**6)), "do not fit its levels"),
    "no JSON": (lambda f: f.update({RECIPE: b"["}), "not a model of sdst push"),
    "deep JSON": (lambda f: f.update({RECIPE: b"[" * 10**6}), "not a model of sdst push"),
    "JSON of another kind": (lambda f: f.update({RECIPE: b"[1]"}), "not a model of sdst push"),
    "a recipe of another type": (with_recipe(clip_seconds="long"), "clip_seconds is str"),
    "layers that are not numbers": (with_recipe(video_layers=["a"]), "video_layers is list"),
    "another version": (
        lambda f: f.update({RECIPE: f[RECIPE].replace(b'"version": 1', b'"version": 9')}),
        "version 1, got 9",
    ),
    "no tensors": (lambda f: f.update({WEIGHTS: b"text"}), "not a model of sdst push"),
    "a header longer than the file": (
        lambda f: f.update({WEIGHTS: struct.pack("<Q", 2**60) + b"{}"}),
        "not a model of sdst push",
    ),
    "tensors larger than the file": (
        lambda f: f.update({WEIGHTS: struct.pack("<Q", len(HEADER)) + HEADER + bytes(4)}),
        "not a model of sdst push",
    ),
    "a cut file": (lambda f: f.update({WEIGHTS: f[WEIGHTS][:-8]}), "not a model of sdst push"),
    "NaN": (with_weights(lambda t: t["gates"].fill_(torch.nan)), "gates holds NaN"),
    "a missing tensor": (with_weights(lambda t: t.pop("gates")), "do not fit the configuration"),
    "an extra tensor": (
        with_weights(lambda t: t.update(extra=torch.zeros(1))),
        "do not fit the configuration",
    ),
    "no weights": (lambda f: f.pop(WEIGHTS), "model.safetensors is missing"),
    "no configuration": (lambda f: f.pop(CONFIG), "config.yaml is missing"),
    "a long text": (lambda f: f.update({CONFIG: b"#" * 2**23}), "must have at most"),
}


def test_the_untouched_files_load(good: Files, tmp_path: Path) -> None:
    for path in (write_folder(good, tmp_path), write_zip(good, tmp_path)):
        checkpoint.load(path)


@pytest.mark.parametrize(("number", "name"), list(enumerate(HOSTILE)))
def test_hostile_contents_are_refused(number: int, name: str, good: Files, tmp_path: Path) -> None:
    change, said = HOSTILE[name]
    change(good)
    path = (write_folder, write_zip)[number % 2](good, tmp_path)
    with pytest.raises(UserError, match=said) as error:
        checkpoint.load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["../evil.py", "/tmp/evil.py", "sub/model.safetensors", "C:\\evil", "notes.txt"]
)
def test_a_zip_file_with_other_names_is_refused_and_never_unpacked(
    name: str, good: Files, tmp_path: Path
) -> None:
    path = write_zip({**good, name: b"x"}, tmp_path)
    with pytest.raises(UserError, match="which no model of sdst push does"):
        checkpoint.load(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["model.zip"]


def test_a_zip_bomb_is_refused_before_it_is_unpacked(
    good: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip({**good, WEIGHTS: bytes(2**28)}, tmp_path, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    with pytest.raises(UserError, match=r"model\.zip: not a zip file of sdst push \(unpacks to"):
        checkpoint.load(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(good: Files, tmp_path: Path) -> None:
    path = write_zip(good, tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CONFIG, "other")
    with pytest.raises(UserError, match="holds it twice"):
        checkpoint.load(path)


def test_damaged_zip_files_are_refused(good: Files, tmp_path: Path) -> None:
    path = write_zip(good, tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    for damaged in (bytes(content), content[:1000], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.zip: not a zip file of sdst push"):
            checkpoint.load(path)
    path.unlink()
    with pytest.raises(UserError, match=r"model\.zip: no such model"):
        checkpoint.load(path)


def test_a_folder_is_a_shared_model_a_run_or_refused(tmp_path: Path) -> None:
    assert find_checkpoint(SMALL_WORLD) == SMALL_WORLD
    with pytest.raises(UserError, match=r"expected a checkpoint, or a folder of sdst push, or a run folder"):
        find_checkpoint(tmp_path)
