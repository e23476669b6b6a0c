"""What people type first at ``sdst train``: it works, or one line says what they meant, before anything is written."""

import logging
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from helpers.corpus import Corpus
from helpers.one_line import one_line
from helpers.same_result import read_json
from sdst.cli import main
from sdst.config.compose import conf_dir
from sdst.data.annotations import read_annotations
from sdst.features.simulate import write_simulated
from sdst.training.run_folder import BEST

REFUSED = {
    # Unknown keys, with and without +.
    "+attention=standard": ["attention"],
    "+levels.K=2": ["unknown option 'levels.K'", "levels"],
    "++optim.momentum=.9": ["unknown option 'optim.momentum'; choose from optim.decay, ", "optim.lr"],
    "+seeds=5": ["unknown option 'seeds'; did you mean seed?"],
    "+paths.out=x": ["unknown option 'paths.out'; did you mean run_dir?"],
    "+decode.topk=5": ["unknown option 'decode.topk'"],
    "+select.mode=max": ["unknown option 'select.mode'"],
    "levels={a:1}": ["unknown option 'levels.a'"],
    "+model.foo=1": ["sdst.models.sdst.SDST", "foo"],
    "+data.foo=1": ["sdst.data.datamodule.GroundingDataModule", "foo"],
    "+trainer.foo=1": ["lightning.Trainer", "foo"],
    "+logger.csv.foo=1": ["lightning.pytorch.loggers.CSVLogger", "foo"],
    # Words that people use.
    "lr=1e-3": ["did you mean optim.lr?"],
    "batch_size=4": ["did you mean data.batch_size?"],
    "dim=64": ["did you mean model.dim?"],
    "epochs=3": ["did you mean trainer.max_epochs?"],
    "max_epochs=3": ["did you mean trainer.max_epochs?"],
    "gpus=2": ["did you mean trainer.devices?"],
    "devices=2": ["did you mean trainer.devices?"],
    "amp=true": ["did you mean trainer.precision?"],
    "+fp16=true": ["did you mean trainer.precision?"],
    "precision=16": ["did you mean trainer.precision?"],
    "wandb=true": ["did you mean logger=wandb?"],
    "ckpt_path=last.ckpt": ["did you mean resume=RUN?"],
    "checkpoint=last.ckpt": ["did you mean resume=RUN?"],
    "dataset=tacos": ["did you mean data=", "tacos"],
    "K=3": ["did you mean levels"],
    "trainer.fast_dev_run=true": ["did you mean "],
    "logger.name=x": ["did you mean logger.csv.name?"],
    "logger.wandb.project=x": ["'logger.wandb.project' belongs to logger="],
    "qvhighlights": ["expected an override like seed=1", "did you mean data=qvhighlights?"],
    "seed=1,2": ["seed=1,2: several values need -m"],
    "+seed=1": ["+seed: ", "write seed=VALUE"],
    "~optim.lr": ["~optim.lr: "],
    "~sed": ["unknown option 'sed'; did you mean seed?"],
    "model.dim=[1": ["cannot read the override model.dim=[1; write KEY=VALUE"],
    "decode.nms=(x": ["cannot read the override decode.nms=(x; ", ": \"decode.nms='(x'\""],
    "select.metric=特": [": \"select.metric='特'\""],
    "data.features=特征.h5": ["特征.h5: no such file"],
    "data.features=a.h5,b.h5": ["data.features=a.h5,b.h5: several values need -m"],
    # Unknown choices.
    "data=qvhighlight": [
        "data=qvhighlight: unknown choice (did you mean qvhighlights?); choose from activitynet, castella, charades, "
    ],
    "+model=foo": ["model=foo: unknown choice; choose from", "r2_tuning"],
    "hydra/launcher=foo": ["hydra/launcher=foo: unknown choice", "basic"],
    "trainer=null": ["trainer=null: a group needs a choice; choose from ", "default"],
    "logger=null": ["logger=null: ", "none", "CSV log"],
    "data=3": ["data=3: unknown choice; choose from activitynet, castella, charades"],
    "trainer=true": ["trainer=true: unknown choice"],
    "data=[charades,tacos]": ["need one choice each", "data"],
    # Values of the wrong kind: Hydra's reason survives.
    "optim.lr=abc": ["optim.lr must be a number, got 'abc'"],
    "seed=abc": ["seed must be a whole number, got 'abc'"],
    "recompute=maybe": ["recompute must be true or false, got 'maybe'"],
    "optim.lr=null": ["optim.lr must have a value, got null"],
    "run_dir=${nope}": ["'nope' not found", "full name of an option"],
    "data.pooling=${nope}": ["'nope' not found", "full name of an option"],
    "decode.nms=???": ["decode.nms must have a value, got ???"],
    "decode=3": ["decode is a section", "decode.nms"],
}


@pytest.mark.parametrize("option", REFUSED)
def test_option_is_refused_in_one_line_that_says_what_was_meant(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    runs = tmp_path / "runs"
    line = one_line(capsys, ["train", *corpus.overrides, f"paths.runs={runs}", option])
    for named in REFUSED[option]:
        assert named in line
    typed = option.lstrip("+~").partition("=")[0]
    assert f"did you mean {typed}?" not in line
    assert not list(runs.glob("*/*"))


# --- groups that only some models have ---


@pytest.fixture
def grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration folder with a group ``brightness`` that only ``model=sdst`` has."""
    folder = tmp_path / "conf"
    shutil.copytree(conf_dir(), folder)
    (folder / "brightness").mkdir()
    for name in ("dark", "light"):
        (folder / f"brightness/{name}.yaml").write_text(f"# @package model\nbrightness_{name}: 1\n")
    model = folder / "model/sdst.yaml"
    text = model.read_text()
    if "@package _global_" in text:
        model.write_text(text.replace("defaults:\n", "defaults:\n  - /brightness: dark\n", 1))
    else:
        nested = textwrap.indent(text, "  ")
        model.write_text(
            f"# @package _global_\ndefaults:\n  - _self_\n  - /brightness: dark\nmodel:\n{nested}"
        )
    monkeypatch.setenv("SDST_CONF", str(folder))


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model=r2_tuning", "brightness=light"],
            "'brightness' belongs to model=sdst; choose that, or remove",
        ),
        (["model=r2_tuning", "model.brightness_dark=2"], "'model.brightness_dark' belongs to model=sdst;"),
        (
            ["brightness=lihgt"],
            "brightness=lihgt: unknown choice (did you mean light?); choose from dark, light",
        ),
        (["+brightness=light"], "brightness has two choices; write brightness=light without +"),
    ],
)
def test_group_of_another_model_is_refused_with_the_model_that_has_it(
    capsys: pytest.CaptureFixture[str], overrides: list[str], expected: str
) -> None:
    assert expected in one_line(capsys, ["train", *overrides])


# --- Hydra's own flags ---


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What ``sdst train`` prints with these arguments."""
    capsys.readouterr()
    assert main(["train", *arguments]) == 0
    return capsys.readouterr().out


def test_help_lists_all_groups_and_names_completion_and_cfg(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "--help")
    for group in (
        folder.name for folder in conf_dir().iterdir() if folder.is_dir() and folder.name != "hydra"
    ):
        assert f"\n{group}: " in text
    assert 'eval "$(sdst -sc install=bash)"' in text
    assert "--cfg job" in text
    assert len(text.splitlines()) < 40


def test_help_of_sdst_lists_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for group in ("data", "model"):
        choices = sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
        assert f" {group} {', '.join(choices)} " in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 110


def test_flags_of_hydra_show_what_they_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "Configuration groups" in output(capsys, "--hydra-help")
    assert "Hydra" in output(capsys, "--version")
    for what in (["--info"], ["--info", "all"], ["-i", "plugins"], ["--info", "searchpath"]):
        assert "*****" in output(capsys, *what)
    assert output(capsys, "--info", "defaults-tree", "data=world").count("data: world") == 1
    assert "data: world" in output(capsys, "--info", "data=world")
    assert OmegaConf.create(output(capsys, "--cfg", "job", "seed=3")).seed == 3
    assert "seed" not in OmegaConf.create(output(capsys, "--cfg", "hydra"))
    assert {"seed", "hydra"} <= set(OmegaConf.create(output(capsys, "--cfg", "all")))
    assert OmegaConf.create(output(capsys, "-c", "job", "-p", "optim", "optim.lr=1")) == {
        **OmegaConf.create(output(capsys, "--cfg=job", "--package=optim")),
        "lr": 1.0,
    }
    assert "${" not in output(capsys, "data=world", "--resolve", "--cfg", "job")
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 7\n")
    for flag in ("-cn", "--config-name"):
        own = output(capsys, "-cd", str(tmp_path), flag, "mine", "--cfg", "job", "-p", "seed")
        assert own == "7\n"


def test_cfg_of_a_multirun_shows_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "-m", "--cfg", "job", "seed=1,2", "data=world")
    assert "# job 1: seed=2 data=world\n" in text
    assert [document["seed"] for document in yaml.safe_load_all(text)] == [1, 2]


FLAGS = {
    "--experimental-rerun x": ["--experimental-rerun is not supported", "resume="],
    "--config-path x": ["--config-path is not supported", "SDST_CONF", "--config-dir"],
    "-cp x": ["--config-path is not supported"],
    "--config-dir /no/such": ["/no/such", "no such folder"],
    "--config-name nowhere": ["nowhere"],
    "--resolve": ["--resolve needs --cfg"],
    "--package model": ["--package model needs --cfg"],
    "--cfg": ["--cfg", "expected one argument"],
    "--cfg foo": ["invalid choice: 'foo'", "job"],
    "--cfg job --package nope": ["--package nope"],
    "--cfg job +seeds=3": ["unknown option 'seeds'"],
    "--cfg job resume=x": ["--cfg takes no resume=x"],
    "-m --info seed=1,2": ["--multirun and --info exclude each other"],
    "-m --run seed=1,2": ["--run and --multirun exclude each other"],
    "-m resume=runs/x seed=1,2": ["resume=runs/x continues one run and takes no --multirun"],
    "-sc install=tcsh": ["bash, zsh, fish"],
    "--mutlirun": ["unknown option --mutlirun", "--multirun"],
}


@pytest.mark.parametrize("flags", FLAGS)
def test_flag_that_cannot_work_is_refused_in_one_line(capsys: pytest.CaptureFixture[str], flags: str) -> None:
    line = one_line(capsys, ["train", *flags.split()])
    for named in FLAGS[flags]:
        assert named in line


def test_python_m_sdst_is_sdst(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdst", "train", "--cfg", "job", "-p", "seed"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


# --- runs ---


def test_logger_none_writes_the_csv_log_alone(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", *corpus.overrides, "logger=none", "trainer.max_epochs=1", f"run_dir={run}"]) == 0
    assert (run / "csv/version_0/metrics.csv").is_file()


def test_epochs_without_validation_repeat_no_numbers_and_warn_of_nothing(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    run = tmp_path / "run"
    epochs = ["trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"]
    with caplog.at_level(logging.INFO, "sdst"):
        assert main(["train", *corpus.overrides, *epochs, f"run_dir={run}"]) == 0
    lines = [message for message in caplog.messages if message.startswith("epoch ")]
    assert [line.partition("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert ["val/" in line for line in lines] == [False, True, False]
    assert all("train/loss" in line for line in lines)
    assert not [warning for warning in recwarn if "monitored key" in str(warning.message)]
    assert (run / BEST).is_file()
    assert read_json(run / "metrics.json")["selected"]["epoch"] == 1  # stored as Lightning counts: the second
    assert any("epoch 2" in message for message in caplog.messages if message.startswith("best of 3 epochs"))


def test_resume_auto_in_a_multirun_changes_nothing(
    corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["-m", "seed=1", "resume=auto", "trainer.max_epochs=1", f"run_dir={tmp_path / 'sweep'}"]
    with caplog.at_level(logging.INFO, "sdst"):
        assert main(["train", *corpus.overrides, *arguments]) == 0
    assert sum("resume=auto has no effect in a multirun" in message for message in caplog.messages) == 1


def test_predict_and_show_take_a_run_folder_or_a_checkpoint(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted = []
    for checkpoint in (finished, finished / BEST):
        stored = ["--features", str(corpus.features), "--annotations", str(corpus.paths["val"])]
        assert main(["predict", "--checkpoint", str(checkpoint), *stored]) == 0
        predicted.append(capsys.readouterr().out)
        assert main(["show", str(checkpoint), "--out", str(tmp_path / "page.html")]) == 0
        capsys.readouterr()
    assert predicted[0] == predicted[1] != ""
    line = one_line(capsys, ["predict", "--checkpoint", str(tmp_path), *stored])
    assert f"{tmp_path}: expected a checkpoint, or a folder of sdst push, or a run folder" in line


def test_missing_small_world_names_make_world_and_the_demos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDST_DATA", str(tmp_path))
    line = one_line(capsys, ["train", "data=world", f"paths.runs={tmp_path}"])
    assert "world/features.h5: no such file" in line
    assert "make world" in line
    assert "SDST_DATA=runs/demo" in line


@pytest.mark.parametrize("name", ["特征 (x).h5", "epoch=3,step=99.h5", "it's #1 [b].h5", "a,b.h5"])
def test_paths_are_read_as_they_are_typed(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    features = tmp_path / name
    shutil.copy(corpus.features, features)
    run = tmp_path / "a b/run #1 (é), x=1"
    train = ["train", *corpus.overrides, "trainer.max_epochs=1"]
    assert main([*train, f"data.features={features}", f"run_dir={run}"]) == 0
    assert read_json(run / "metrics.json")
    config = OmegaConf.load(run / "config.yaml")
    assert (config.data.features, config.run_dir) == (str(features), str(run))
    for resume in (f"resume={run}", f"resume='{run}'"):
        assert "finished" in one_line(capsys, ["train", resume])


def test_commas_in_a_multirun_separate_paths(corpus: Corpus, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("特.h5", "b.h5")]
    records = [record for path in corpus.paths.values() for record in read_annotations(path).records]
    for seed, path in enumerate(paths):  # equal files would be one job
        write_simulated(records, path, video_dim=16, text_dim=16, levels=2, seed=seed)
    runs = tmp_path / "sweep"
    files = f"data.features={paths[0]},{paths[1]}"
    assert main(["train", "-m", *corpus.overrides, "trainer.max_epochs=1", files, f"paths.runs={runs}"]) == 0
    assert {OmegaConf.load(path).data.features for path in runs.rglob("config.yaml")} == set(map(str, paths))
