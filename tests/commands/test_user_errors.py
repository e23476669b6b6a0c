"""Every user error is exit status 2 and one line that names the culprit, before anything is written or computed."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import sdst
from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.one_line import one_line
from sdst.training.run_folder import BEST

# --- options ---

OPTIONS = {
    "seed=abc": ["seed", "abc"],
    "seed=4294967296": ["seed", "4294967295"],
    "trainer.log_every_n_steps=0": ["trainer.log_every_n_steps", "at least 1"],
    "trainer.accumulate_grad_batches=0": ["trainer.accumulate_grad_batches", "at least 1"],
    "trainer.limit_val_batches=2.5": ["trainer.limit_val_batches", "2.5"],
    "trainer.limit_train_batches=0.001": ["trainer.limit_train_batches", "of 3 batches is less than one"],
    "trainer.accelerator=tpu": ["trainer", "torch_xla"],
    "+trainer.overfit_batches=1": ["trainer.overfit_batches", "limit_train_batches"],
    "model.dmi=32": ["model.dmi", "did you mean model.dim?"],
    "nonsense=1": ["nonsense", "--cfg job"],
    "data=unknown": ["data=unknown", "qvhighlights"],
    "logger=unknown": ["logger=unknown", "csv"],
    "select.metric=MR-full-mAP@0.6": ["select.metric", "MR-full-mAP@0.5"],
    "select.split=dev": ["dev", "val"],
    "select.split=train": ["select.split", "train"],
    "loss.weights.sal=-1": ["loss.weights", "sal"],
    "loss.weights.sal=nan": ["loss.weights", "sal"],
    "+loss.weights.hinge=1": ["loss.weights", "hinge"],
    "loss.match_weights.l1=inf": ["match_weights", "l1"],
    "levels.count=0": ["levels.count", "at least 1"],
    "levels.count=9": ["features.h5", "video_layers", "32"],
    "levels.source=first": ["levels.source", "first"],
    "model.modules=[ca,sa,rdsx]": ["model.modules", "rdsx"],
    "model.modules=[]": ["model.modules"],
    "attention=deformabel": ["attention=deformabel", "pure_init"],
    "model.attention=standard": ["model.attention", "'standard'", "attention=NAME"],
    "model.attention.start=pure": ["model.attention.start"],
    "model.attention.query_dim=0": ["model.attention.query_dim", "at least 1"],
    "model.attention.cnn_depth=-1": ["model.attention.cnn_depth", "at least 0"],
    "model.dim=15": ["model.dim", "15"],
    "model.signal=cooked": ["model.signal", "cooked"],
    "model.attention.sampling=[x]": ["model.attention.sampling", "x"],
    "model.num_queries=0": ["model.num_queries"],
    "model.attention.num_points=0": ["model.attention.num_points"],
    "model.roi_bins=0": ["model.roi_bins"],
    "model.dropout=1.5": ["dropout"],
    "model.drop_path=1.5": ["drop_path"],
    "model.dim=0": ["model.dim", "at least 1"],
    "model.heads=0": ["model.heads", "at least 1"],
    "model.sharing=off": ["model.sharing", "'off'", "true or false"],
    "model.stop_reference_gradient=1": ["model.stop_reference_gradient", "true or false"],
    "model.num_queries=2.5": ["model.num_queries", "2.5", "whole number"],
    "model.attention.num_points=true": ["model.attention.num_points", "whole number"],
    "model.dropout=high": ["model.dropout", "'high'", "a number"],
    "model.modules=ca": ["model.modules", "'ca'", "list"],
    "model.modules=[1,2]": ["model.modules", "list"],
    "model.modules=[ffn,ca,sa,rdsa]": ["model.modules", "ffn", "last"],
    "model.attention.sampling=[l,l]": ["model.attention.sampling", "once"],
    "levels.stride=0": ["levels.stride", "at least 1"],
    "levels.text_stride=9": ["features.h5", "text_layers", "10"],
    "loss.alpha=1.5": ["loss.alpha"],
    "loss.gamma=-1": ["loss.gamma"],
    "loss.temperature=0": ["loss.temperature"],
    "data.batch_size=2.5": ["data.batch_size", "2.5", "whole number"],
    "decode.score=best": ["decode.score", "best"],
    "decode.nms=cubic": ["decode.nms", "cubic"],
    "decode.sigma=0": ["decode.sigma"],
    "decode.max_moments=0": ["decode.max_moments"],
    "optim.decay_epochs=0": ["optim.decay_epochs"],
    "optim.decay_epochs=[30,20]": ["optim.decay_epochs", "[30, 20]"],
    "optim.decay_epochs=often": ["optim.decay_epochs", "'often'"],
    "optim.lr=-1": ["optim.lr"],
    "optim.warmup_steps=-1": ["optim.warmup_steps"],
    "data.batch_size=0": ["data.batch_size"],
    "data.repeat=0": ["data.repeat"],
    "data.num_workers=-1": ["data.num_workers"],
    "data.clip_seconds=1": ["features.h5", "data.clip_seconds=2"],
    "data.pooling=max": ["features.h5", "/video/max", "adaptive"],
    "data.name=kinetics": ["kinetics", "qvhighlights"],
    "data.features=/no/such.h5": ["/no/such.h5"],
    "data.annotations.val=/no/such.jsonl": ["/no/such.jsonl"],
    "data.annotations.train=null": ["data.annotations.train"],
    "trainer.max_epochs=0": ["trainer.max_epochs"],
    "trainer.max_epochs=null": ["trainer.max_epochs"],
    "trainer.precision=17": ["trainer.precision", "17"],
    "trainer.precision=bf16-true": ["trainer.precision", "bf16-true"],
    "trainer.limit_train_batches=0": ["trainer.limit_train_batches"],
    "trainer.limit_val_batches=0": ["trainer.limit_val_batches"],
    "trainer.devices=0": ["trainer.devices"],
    "seed=-1": ["seed"],
    "trainer.accelerator=abacus": ["lightning.Trainer", "abacus"],
    "trainer.check_val_every_n_epoch=5": ["trainer.check_val_every_n_epoch"],
    "compile=nothing": ["compile", "nothing"],
    "compile_mode=reduce-overhead": ["compile_mode", "needs compile=inductor"],
    "compile_mode=fast": ["compile_mode", "fast"],
    "data.cache=gpu": ["data.cache", "gpu"],
    "data.pad_to=0": ["data.pad_to"],
    "resume=latest": ["resume=latest"],
    "resume=/no/such": ["/no/such"],
    "seed": ["seed"],
    "--frobnicate": ["--frobnicate"],
}


@pytest.mark.parametrize("option", OPTIONS)
def test_bad_option(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    runs = tmp_path / "runs"
    line = one_line(capsys, ["train", *corpus.overrides, f"paths.runs={runs}", option])
    for named in OPTIONS[option]:
        assert named in line
    assert not [path for path in runs.rglob("*") if path.is_file()]
    assert not list(runs.glob("*/*"))  # no run folder


@pytest.mark.parametrize("attention", ["pure_init", "mixed_init"])
def test_proposals_that_no_loss_would_train(corpus: Corpus, tmp_path: Path, capsys, attention: str) -> None:
    options = [f"attention={attention}", "loss.weights.cls=0", f"paths.runs={tmp_path}"]
    line = one_line(capsys, ["train", *corpus.overrides, *options])
    assert f"attention={attention}" in line
    assert "loss.weights.cls" in line


# --- features ---


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def delete(key: str) -> Callable[[Path], None]:
    return edit(lambda file: file.__delitem__(key))


def set_attribute(name: str, value: object) -> Callable[[Path], None]:
    return edit(lambda file: file.attrs.__setitem__(name, value))


FEATURES = {
    "missing": (Path.unlink, []),
    "truncated": (truncate, []),
    "empty": (lambda path: path.write_bytes(b""), []),
    "of another format": (set_attribute("format", "pictures"), ["format"]),
    "of another version": (set_attribute("version", 2), ["version"]),
    "unfinished": (set_attribute("complete", False), ["complete"]),
    "without a video": (delete("video/adaptive/val0"), ["/video/adaptive", "val0"]),
    "without a query": (delete("text/3002"), ["/text", "3002"]),
    "without the pooling": (delete("video/adaptive"), ["video"]),
    "without a layer": (set_attribute("video_layers", [38, 40]), ["video_layers", "39"]),
}


@pytest.mark.parametrize("damage", FEATURES)
def test_bad_features(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    corpus = make_corpus(tmp_path, {"train": make_rows("train", 4), "val": make_rows("val", 4)})
    apply, named = FEATURES[damage]
    apply(corpus.features)
    line = one_line(capsys, ["train", *corpus.overrides, f"run_dir={tmp_path / 'runs/run'}"])
    for part in [str(corpus.features), *named]:
        assert part in line
    assert not (tmp_path / "runs/run").exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("key", ["video/adaptive/train1", "text/5002"])
def test_features_that_are_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int, key: str
) -> None:
    corpus = make_corpus(tmp_path, {"train": make_rows("train", 4), "val": make_rows("val", 4)})
    with h5py.File(corpus.features, "r+") as file:
        file[key][0, 0, 0] = np.nan
    overrides = [*corpus.overrides, f"data.num_workers={workers}", f"run_dir={tmp_path / 'run'}"]
    line = one_line(capsys, ["train", *overrides])
    assert line.startswith(f"sdst: error: {corpus.features}: /{key} holds NaN")


def test_features_of_other_videos_with_the_same_names(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in corpus.paths["val"].read_text().splitlines()]
    rows[1]["duration"] += 6
    (tmp_path / "v.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changes = [f"data.annotations.val={tmp_path / 'v.jsonl'}", f"run_dir={tmp_path / 'run'}"]
    assert f"video {rows[1]['vid']}" in one_line(capsys, ["train", *corpus.overrides, *changes])
    assert not (tmp_path / "run").exists()


# --- annotations ---


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_malformed_annotation_line(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    lines = corpus.paths[split].read_text().splitlines()
    lines[2] = lines[2][:-10]
    path = tmp_path / "cut.jsonl"
    path.write_text("\n".join(lines))
    overrides = [*corpus.overrides, f"data.annotations.{split}={path}", f"run_dir={tmp_path / 'run'}"]
    assert f"{path}:3: " in one_line(capsys, ["train", *overrides])
    assert not (tmp_path / "run").exists()


# --- checkpoints ---


class Payload:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


def flip_a_bit(path: Path, good: Path) -> None:
    with zipfile.ZipFile(good) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        weight = archive.read(largest)
    content = bytearray(good.read_bytes())
    content[content.index(weight)] ^= 1
    path.write_bytes(content)


def compress(path: Path, good: Path) -> None:
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
        target.writestr("archive/more", bytes(2**27))


CHECKPOINTS = {
    "missing": lambda path, good: None,
    "empty": lambda path, good: path.write_bytes(b""),
    "text": lambda path, good: path.write_text("hello, this is not a checkpoint"),
    "of something else": lambda path, good: torch.save({"state_dict": {}}, path),
    "a list": lambda path, good: torch.save([1, 2], path),
    "truncated": lambda path, good: path.write_bytes(good.read_bytes()[:5000]),
    "malicious": lambda path, good: torch.save({"sdst": Payload(str(path.with_name("ran")))}, path),
    "a folder": lambda path, good: path.mkdir(),
    "with one other bit": flip_a_bit,
    "that unpacks to more": compress,
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_bad_checkpoint(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "c.ckpt"
    CHECKPOINTS[kind](path, finished / BEST)
    options = ["--checkpoint", str(path), "--features", str(corpus.features)]
    line = one_line(capsys, ["predict", *options, "--annotations", str(corpus.paths["val"])])
    assert str(path) in line
    assert not (tmp_path / "ran").exists()


Contents = dict[str, Any]
CONTRADICTIONS: dict[str, tuple[Callable[[Contents], object], str]] = {
    "version": (lambda c: c["sdst"].update(version=99), "99"),
    "weights": (lambda c: c["state_dict"].pop("model.gates"), "gates"),
    "names": (lambda c: c["state_dict"].update({7: torch.zeros(1)}), "7"),
    "values": (lambda c: c["state_dict"].update({"model.gates": "open"}), "gates"),
    "not finite": (lambda c: c["state_dict"]["model.gates"].fill_(torch.nan), "model.gates|gates holds NaN"),
    # A configuration may only name a model of ours ...
    "target": (lambda c: c["sdst"]["config"].update(model={"_target_": "pathlib.Path.touch"}), "pathlib"),
    "other module": (lambda c: c["sdst"]["config"].update(model={"_target_": "torch.nn.Linear"}), "Linear"),
    "below": (lambda c: c["sdst"]["config"]["model"].update(dim={"_target_": "torch.nn.Linear"}), "SDST"),
    "attention": (
        lambda c: c["sdst"]["config"]["model"].update(attention={"_target_": "torch.nn.Linear"}),
        "Linear",
    ),
    "attention of another kind": (
        lambda c: c["sdst"]["config"]["model"].update(
            attention={"_target_": "sdst.models.layers.FeedForward"}
        ),
        "FeedForward",
    ),
    "below the attention": (
        lambda c: c["sdst"]["config"]["model"]["attention"].update(
            sampling=[{"_target_": "torch.nn.Linear"}]
        ),
        "RDSA",
    ),
    # ... of the size of its weights, and read no environment.
    "width": (lambda c: c["sdst"]["config"]["model"].update(dim=2**20), "sizes"),
    "points": (lambda c: c["sdst"]["config"]["model"]["attention"].update(num_points=2**40), "sizes"),
    "convolutions": (lambda c: c["sdst"]["config"]["model"]["attention"].update(cnn_depth=10**9), "sizes"),
    "wide": (lambda c: c["sdst"]["config"]["model"].update(dim=4096), "larger model"),
    "deep": (lambda c: c["sdst"]["config"]["levels"].update(count=10**9), "do not fit its levels"),
    "features": (lambda c: c["sdst"]["recipe"].update(video_dim=10**12), "sizes"),
    "variable": (lambda c: c["sdst"]["config"].update(group="${oc.env:HOME}"), "interpolation"),
    "recipe": (lambda c: c["sdst"]["recipe"].pop("pooling"), "pooling"),
    "type": (lambda c: c["sdst"]["recipe"].update(max_clips="many"), "max_clips"),
    "configuration": (lambda c: c["sdst"].update(config=[]), "config"),
    "option": (lambda c: c["sdst"]["config"].update(sed=1), "sed"),
}


@pytest.mark.parametrize("change", CONTRADICTIONS)
def test_checkpoint_that_contradicts_itself(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    stored = torch.load(finished / BEST, weights_only=True)
    apply, named = CONTRADICTIONS[change]
    apply(stored)
    path = tmp_path / "c.ckpt"
    torch.save(stored, path)
    options = ["--checkpoint", str(path), "--features", str(corpus.features)]
    line = one_line(capsys, ["predict", *options, "--annotations", str(corpus.paths["val"])])
    assert str(path) in line
    assert re.search(named, line)


def test_malicious_checkpoint_is_not_executed_on_resume(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "metrics.json").unlink()
    torch.save({"sdst": Payload(str(tmp_path / "ran"))}, run_dir / "checkpoints/last.ckpt")
    assert "last.ckpt" in one_line(capsys, ["train", f"resume={run_dir}"])
    assert not (tmp_path / "ran").exists()


# --- the console script ---


@pytest.mark.processes
def test_unknown_command_lists_all_commands_and_suggests_the_closest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "unknown command 'tran' (did you mean 'train'?); choose from train, sweep" in one_line(
        capsys, ["tran"]
    )
    assert "unknown command 'xyz'; choose from train, sweep" in one_line(capsys, ["xyz"])


def test_python_m_sdst_runs_the_command() -> None:
    module = [sys.executable, "-m", "sdst"]
    done = subprocess.run([*module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"sdst {sdst.__version__}\n"
    assert subprocess.run([*module, "xyz"], capture_output=True, check=False).returncode == 2


def test_the_package_lists_load_before_its_first_use() -> None:
    program = "import sys, sdst; print('load' in dir(sdst), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_console_script_prints_the_same_errors(corpus: Corpus, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("sdst")
    arguments = [script, "train", *corpus.overrides, "model.dmi=3"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sdst: error: unknown option 'model.dmi'; did you mean model.dim?\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_video_files_without_the_library_that_reads_them() -> None:
    commands = ["predict --video a.mp4 --query dog --checkpoint best.ckpt", "serve --checkpoint best.ckpt"]
    program = "import sys; sys.modules['av'] = None; from sdst.cli import main\n"
    program += "sys.exit(str([main(command.split()) for command in sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *commands], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    *lines, statuses = done.stderr.splitlines()
    assert statuses == "[2, 2]"
    assert len(lines) == len(commands)
    assert all("pip install 'sdst[extract]'" in line or "pip install 'sdst[serve]'" in line for line in lines)
