"""``sdst push``: what it writes, that nothing names the machine, and that what comes back is the run's own model."""

import json
import platform
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import sdst
from helpers.corpus import Corpus
from helpers.one_line import one_line
from helpers.shared_data import needs_shared
from sdst.cli import main
from sdst.errors import UserError
from sdst.sharing.contents import shared_config
from sdst.training import checkpoint
from sdst.training.shared_model import read_words
from sdst.untrusted.shared_files import CARD, CONFIG, FILES, METRICS, RECIPE, WEIGHTS, WORDS

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def pushed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run's model as a folder. Read only."""
    folder = tmp_path_factory.mktemp("pushed") / "tiny"
    assert main(["push", str(finished), str(folder)]) == 0
    return folder


def contents(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def front_matter(path: Path) -> dict[str, Any]:
    _, front, _ = (path / CARD).read_text().split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(front)
    return values


def assert_same_model(one: Path | str, other: Path | str) -> None:
    (ours, config, recipe), (theirs, other_config, other_recipe) = map(checkpoint.load, (one, other))
    assert recipe == other_recipe
    for key in ("model", "levels", "decode", "loss", "optim", "select", "seed"):
        assert config[key] == other_config[key]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_folder_and_zip_give_the_runs_own_model_and_predictions(
    pushed: Path, finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "tiny.zip"
    assert main(["push", str(finished), str(archive)]) == 0
    assert contents(archive) == contents(pushed)
    lines = []
    for model in (finished, pushed, archive):
        assert_same_model(finished, model)
        capsys.readouterr()
        stored = ["--features", str(corpus.features), "--annotations", str(corpus.paths["val"])]
        assert main(["predict", "--checkpoint", str(model), *stored]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1] == lines[2] != ""


def test_the_same_run_gives_the_same_bytes_and_replaces_an_older_model(
    pushed: Path, finished: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / "tiny", tmp_path / "tiny.zip"):
        for _ in range(2):
            assert main(["push", str(finished), str(path)]) == 0
        assert contents(path) == contents(pushed)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "tiny.zip"}  # nothing temporary is left
    first, second = tmp_path / "tiny.zip", tmp_path / "b" / "tiny.zip"
    second.parent.mkdir()
    assert main(["push", str(finished), str(second)]) == 0
    assert first.read_bytes() == second.read_bytes()


def test_nothing_names_the_machine(pushed: Path, finished: Path, corpus: Corpus) -> None:
    assert set(contents(pushed)) <= {*FILES}
    facts = json.loads((finished / "run.json").read_text())
    secrets = [
        str(finished.parent),
        str(corpus.features.parent),
        str(Path.home()),
        str(Path(sdst.__file__).parents[2]),
    ]
    secrets += [facts["machine"]["platform"], "peak_memory", "fit_seconds"]
    for name, content in contents(pushed).items():
        # A short host name may occur by chance in numbers and pictures.
        own = [] if name.endswith((".png", ".safetensors")) else [rf"\b{re.escape(platform.node())}\b"]
        texts = [re.escape(secret) for secret in secrets] + own
        assert not [text for text in texts if re.search(text.encode(), content)], name
    config = yaml.safe_load((pushed / CONFIG).read_text())
    assert config["logger"] == config["callbacks"] == config["data"]["annotations"] == {}
    assert (config["group"], config["name"], config["tags"], config["data"]["features"]) == (
        None,
        None,
        [],
        None,
    )


def test_paths_are_left_out_and_those_of_the_model_are_refused() -> None:
    config = {
        "model": {"dim": 4},
        "data": {"name": "a"},
        "trainer": {"default_root_dir": "/home/me", "devices": 2},
    }
    assert shared_config(config)["trainer"] == {"default_root_dir": None, "devices": 2}
    config["model"] = {"weights": ["/home/me/w.pt"]}
    with pytest.raises(UserError, match=r"model: must not name a file .* got '/home/me/w\.pt'"):
        shared_config(config)


def test_metrics_card_and_words_say_what_the_run_says(pushed: Path, finished: Path, corpus: Corpus) -> None:
    theirs = json.loads((finished / METRICS).read_text())
    ours = json.loads((pushed / METRICS).read_text())
    assert ours.items() <= theirs.items()
    front = front_matter(pushed)
    assert (front["library_name"], front["license"], front["datasets"]) == (
        "sdst",
        "apache-2.0",
        ["qvhighlights"],
    )
    assert "simulated-features" in front["tags"]
    (index,) = front["model-index"]
    for result in index["results"]:
        best = theirs["best"][result["dataset"]["split"]]
        assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
            name: value for name, value in best.items() if value is not None
        }
    card = (pushed / CARD).read_text()
    facts = json.loads((finished / "run.json").read_text())
    selected = theirs["selected"]
    for said in (
        "SIMULATED",
        facts["git"]["commit"],
        f"highest {selected['metric']} on split {selected['split']}, epoch {selected['epoch'] + 1} of 2",
        f"{facts['parameters']['total']:,} parameters",
    ):
        assert said in card
    queries = [json.loads(line)["query"] for line in corpus.paths["train"].read_text().splitlines()]
    words = {word for query in queries for word in query.split()}
    assert read_words(pushed) == words
    assert read_words(finished / "checkpoints" / "best.ckpt") is None


def test_a_licence_can_be_given(finished: Path, tmp_path: Path) -> None:
    assert main(["push", str(finished), str(tmp_path / "m"), "--license", "cc-by-nc-sa-4.0"]) == 0
    assert front_matter(tmp_path / "m")["license"] == "cc-by-nc-sa-4.0"


def test_without_annotations_the_model_is_shared_without_words_and_picture(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = tmp_path / "run"
    shutil.copytree(finished, moved)
    config = yaml.safe_load((moved / "config.yaml").read_text())
    config["data"]["annotations"] = dict.fromkeys(config["data"]["annotations"], "gone.jsonl")
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["push", str(moved), str(tmp_path / "m")]) == 0
    assert set(contents(tmp_path / "m")) == {WEIGHTS, CONFIG, RECIPE, METRICS, CARD}
    assert "shared without words of the training queries: " in caplog.text
    assert_same_model(finished, tmp_path / "m")


# --- what is refused ---


def foreign_folder(place: Path) -> Path:
    (place / "mine").mkdir()
    (place / "mine" / "README.md").write_text("my own")
    return place / "mine"


def mixed_folder(place: Path) -> Path:
    (place / "mixed").mkdir()
    for name in (RECIPE, "thesis.tex"):
        (place / "mixed" / name).write_text("{}")
    return place / "mixed"


def foreign_zip(place: Path) -> Path:
    with zipfile.ZipFile(place / "mine.zip", "w") as archive:
        archive.writestr("photo.jpg", b"")
    return place / "mine.zip"


def no_zip(place: Path) -> Path:
    (place / "text.zip").write_text("text")
    return place / "text.zip"


@pytest.mark.parametrize("make", [foreign_folder, mixed_folder, foreign_zip, no_zip])
def test_anything_but_an_older_model_is_never_replaced(
    make: Callable[[Path], Path], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = make(tmp_path)
    before = contents(target) if zipfile.is_zipfile(target) or target.is_dir() else target.read_bytes()
    capsys.readouterr()
    assert main(["push", str(finished), str(target)]) == 2
    assert "choose another name" in capsys.readouterr().err
    assert before == (contents(target) if isinstance(before, dict) else target.read_bytes())


def test_wrong_arguments_are_refused_in_one_line(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, said in (
        ((tmp_path, tmp_path / "m"), "not a finished run"),
        ((finished, "hf://user"), "expected hf://user/name"),
        ((finished, "hf://user/name@v1"), "leave out @v1"),
        ((finished, tmp_path / "m", "--private"), "--private needs hf://"),
    ):
        assert said in one_line(capsys, ["push", *map(str, arguments)])
    assert list(tmp_path.iterdir()) == []


# --- the Hub, without a network ---


class FakeHub:
    """Repositories in a folder, behind the functions of ``huggingface_hub`` that are used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[Any, ...]] = []

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        self.calls.append(("create", repository, private))
        (self.folder / repository).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repository}"

    def list_repo_files(self, repository: str) -> list[str]:
        return [".gitattributes", *(path.name for path in (self.folder / repository).iterdir())]

    def create_commit(self, repository: str, operations: list[Any], *, commit_message: str) -> None:
        for operation in operations:
            path = self.folder / repository / operation.path_in_repo
            if hasattr(operation, "path_or_fileobj"):
                path.write_bytes(operation.path_or_fileobj)
            else:
                path.unlink()

    def snapshot_download(self, repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append(("download", repository, revision, sorted(allow_patterns)))
        if not (self.folder / repository).is_dir():
            raise ConnectionError("offline, and not in the cache\nsecond line")
        return str(self.folder / repository)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda library_name: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_a_model_goes_to_the_hub_and_comes_back(
    hub: FakeHub, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = hub.folder / "user" / "name"
    assert main(["push", str(finished), "hf://user/name", "--private"]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/user/name\n"
    assert hub.calls == [("create", "user/name", True)]
    assert_same_model(finished, "hf://user/name")
    grounder = sdst.load("hf://user/name@v1.0")
    assert hub.calls[-1] == ("download", "user/name", "v1.0", sorted([WEIGHTS, CONFIG, RECIPE, WORDS]))
    assert grounder.unseen_words(["a dog", "Zebra?"]) == ["a", "zebra"]
    assert front_matter(repository)["model-index"][0]["name"] == "name"
    (repository / WORDS).write_text("of an older model")
    assert main(["push", str(finished), "hf://user/name"]) == 0
    assert read_words(repository) == grounder.words


def test_a_repository_with_something_else_is_left_alone(
    hub: FakeHub, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hub.folder / "user" / "name").mkdir(parents=True)
    (hub.folder / "user" / "name" / "pytorch_model.bin").write_bytes(b"")
    assert "hf://user/name: already exists and holds something other" in one_line(
        capsys, ["push", str(finished), "hf://user/name"]
    )


def test_a_hub_out_of_reach_is_one_line(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    line = one_line(capsys, ["predict", "--checkpoint", "hf://user/absent", "--features", "f.h5"])
    assert (
        "hf://user/absent: the Hugging Face Hub gives no access (offline, and not in the cache); check"
        in line
    )
    for address in ("hf://user", "hf://../name", "hf://user/name/x", "hf://user/name@", "hf://user/.."):
        with pytest.raises(UserError, match="correct the address"):
            sdst.load(address)


def test_a_missing_hub_package_is_named(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'sdst[hub]'" in one_line(capsys, ["push", str(finished), "hf://user/name"])
    with pytest.raises(UserError, match=r"pip install 'sdst\[hub\]'"):
        sdst.load("hf://user/name")


# --- the small world's model, which comes with the package ---


def test_the_shipped_model_is_small_and_says_what_it_is() -> None:
    from sdst.inference.commands import SMALL_WORLD
    from sdst.world.grammar import words

    assert sum(map(len, contents(SMALL_WORLD).values())) < 5e6
    card = (SMALL_WORLD / CARD).read_text()
    assert "nothing of real scenes" in card
    assert "small-world" in front_matter(SMALL_WORLD)["tags"]
    assert read_words(SMALL_WORLD) == {*words()} - {".", "-", "something"}
    model, _, recipe = checkpoint.load(SMALL_WORLD)
    assert (recipe["backbone"], sum(p.numel() for p in model.parameters())) == ("small-world", 371_428)


def test_predict_uses_the_shipped_model_and_warns_of_unknown_words(
    demo: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    video = next((demo / "world" / "videos").glob("*.mp4"))
    capsys.readouterr()
    queries = ["--query", "The red disc rises.", "--query", "a dog in the water"]
    assert main(["predict", "--video", str(video), *queries]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["query"] for line in printed.out.splitlines()] == queries[1::2]
    assert (
        "using the small world's model: knows coloured shapes, not real scenes; give --checkpoint"
        in printed.err
    )
    assert "no query of the training has the words: dog, water;" in caplog.text


@needs_shared
def test_a_shared_model_answers_about_videos_as_its_run(video_run: Any, tmp_path: Path) -> None:
    from helpers.video_run import BACKBONE, BACKBONE_CONFIG
    from sdst.features.backbone.backbone import load_backbone

    assert main(["push", str(video_run.folder / "run"), str(tmp_path / "m.zip")]) == 0
    backbone = load_backbone(BACKBONE, BACKBONE_CONFIG, vocab=video_run.vocab)
    answers = [
        sdst.load(model, backbone, device="cpu").predict(video_run.video("b"), ["dog jumps"])[0]
        for model in (video_run.checkpoint, tmp_path / "m.zip")
    ]
    assert (answers[0].windows == answers[1].windows).all()
    assert (answers[0].saliency == answers[1].saliency).all()
