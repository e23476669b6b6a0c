"""Runs logged to wandb, read back from the files that it writes offline: fresh, resumed, failed."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.wandb_file import WandbFile
from sdst.cli import main
from sdst.config.compose import compose
from sdst.data.predictions import read_predictions
from sdst.errors import Stopped
from sdst.metrics.moment import top1_iou
from sdst.training import loggers as tracking
from sdst.training.module import GroundingModule
from sdst.training.run_folder import LAST

wandb = pytest.importorskip("wandb")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.slow

Train = Callable[..., Path]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No mode, no key: a run must go offline by itself."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


def written(run_dir: Path) -> list[WandbFile]:
    """What wandb wrote into a run folder, oldest first."""
    wandb.teardown()  # its service writes behind the run's back and is only waited for where the process ends
    return [WandbFile(path) for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))]


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> None:
    """Let one training step of the process fail, counted from 1."""
    original, steps = GroundingModule.training_step, []

    def broken(self: GroundingModule, *arguments: Any) -> torch.Tensor:
        steps.append(None)
        if len(steps) == step:
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(GroundingModule, "training_step", broken)


def test_a_run_shows_its_configuration_origin_curves_and_predictions(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run_dir = train(
        tmp_path / "sweep/7", "logger=wandb", "group=table5", "logger.wandb.tags=[rdsa,laptop]", "name=mine"
    )
    (file,) = written(run_dir)
    assert (file.run.project, file.run.run_group, list(file.run.tags)) == (
        "sdst",
        "table5",
        ["rdsa", "laptop"],
    )
    assert file.run.display_name == "mine"
    assert file.run.run_id == (run_dir / "wandb-run-id").read_text().strip()
    assert file.exit_code == 0

    facts = json.loads((run_dir / "run.json").read_text())
    assert file.config.pop("run") == facts
    assert facts["git"] is None or len(facts["git"]["commit"]) == 40
    assert facts["parameters"]["total"] > facts["parameters"]["sparse"] > 0
    file.config.pop("_wandb")
    assert file.config == yaml.safe_load((run_dir / "config.yaml").read_text())

    assert len(file.curve("train/loss")) == len(file.curve("lr")) == 6
    for term in ("cls", "l1", "iou"):
        levels = [file.curve(f"train/level_{k}/{term}") for k in (1, 2)]
        assert [sum(pair) for pair in zip(*levels, strict=True)] == pytest.approx(
            file.curve(f"train/loss_{term}")
        )
    result = json.loads((run_dir / "metrics.json").read_text())
    for split, brief in result["best"].items():
        curve = file.curve(f"{split}/MR-full-mAP")
        assert len(curve) == {"val": 3, "test": 1}[split]  # two epochs, and the best checkpoint at the end
        assert curve[-1] == pytest.approx(brief["MR-full-mAP"], abs=1e-4)
    (line,) = [message for message in caplog.messages if "wandb sync" in message]
    assert line.endswith(f"wandb sync {run_dir}/wandb/offline-run-*")
    assert (run_dir / "csv/version_0/metrics.csv").is_file()  # sdst show draws its curves


def test_a_run_shows_plots_and_a_table_of_a_few_validation_queries(
    train: Train, corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SHOWN_QUERIES", 3)
    run_dir = train(tmp_path / "run", "logger=wandb", "trainer.max_epochs=1", "data.annotations.test=null")
    (file,) = written(run_dir)
    (folder,) = run_dir.glob("wandb/offline-run-*/files")
    (shown,) = [row for row in file.history if "val/plots/_type" in row]
    assert shown["val/plots/count"] == 3
    for name in shown["val/plots/filenames"]:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert sum(path.stat().st_size for path in folder.rglob("*.png")) < 500_000
    assert "val/plots/captions" in shown

    table = json.loads((folder / shown["val/predictions/path"]).read_text())
    assert table["columns"] == list(tracking.TABLE)
    rows = [json.loads(line) for line in corpus.paths["val"].read_text().splitlines()]
    predictions = {p.qid: p for p in read_predictions(run_dir / "val_submission.jsonl")}
    assert [row[0] for row in table["data"]] == [str(rows[i]["qid"]) for i in (0, 1, 3)]
    for index, (qid, video, query, true, predicted, iou) in zip((0, 1, 3), table["data"], strict=True):
        row = rows[index]
        assert (video, query) == (row["vid"], row["query"])
        assert true == "{}-{}".format(*row["relevant_windows"][0])
        windows = predictions[int(qid)].windows
        assert predicted.startswith("{:.1f}-{:.1f} ({:.2f})".format(*windows[0]))
        assert iou == pytest.approx(
            top1_iou([windows], [torch.tensor(row["relevant_windows"]).numpy()])[0], abs=1e-3
        )


def test_resuming_continues_the_same_wandb_run(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        break_at(context, 5, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            train(tmp_path / "runs/run", "logger=wandb")
    run_dir = tmp_path / "runs/run"
    assert main(["train", "resume=latest", f"paths.runs={tmp_path / 'runs'}"]) == 0
    begun, continued = written(run_dir)
    assert begun.run.run_id == continued.run.run_id == (run_dir / "wandb-run-id").read_text().strip()
    assert (begun.exit_code, continued.exit_code) == (1, 0)
    for file in (begun, continued):
        assert (
            file.config["run"]["parameters"] == json.loads((run_dir / "run.json").read_text())["parameters"]
        )
    # Three steps an epoch; the checkpoint is of the first epoch's end.
    assert begun.curve("trainer/global_step")[-1] >= 3
    steps = [row["trainer/global_step"] for row in continued.history if "train/loss" in row]
    assert steps == [3, 4, 5]
    assert continued.curve("val/plots/_type")
    assert not begun.curve("val/plots/_type")


@pytest.mark.parametrize("batch", [2, 3, 5])  # 3 is the last of its epoch
def test_the_parts_of_a_stopped_and_resumed_run_share_no_step(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    run_dir, calls = tmp_path / "run", []
    original = GroundingModule.training_step

    def stopping(self: GroundingModule, *arguments: Any) -> torch.Tensor:
        calls.append(None)
        if len(calls) == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(GroundingModule, "training_step", stopping)
    with pytest.raises(Stopped):
        train(run_dir, "logger=wandb")
    assert main(["train", f"resume={run_dir}"]) == 0
    begun, continued = written(run_dir)
    steps = [[row["_step"] for row in file.history] for file in (begun, continued)]
    assert all(part == sorted(set(part)) for part in steps)
    assert max(steps[0]) < min(steps[1])
    trained = [row["_step"] for file in (begun, continued) for row in file.history if "train/loss" in row]
    # A stop within an epoch comes before Lightning logs the step.
    assert trained == [step for step in range(6) if step != batch - 1 or batch == 3]
    assert all(row["_step"] == row["trainer/global_step"] for row in continued.history)
    assert len(continued.curve("val/plots/_type")) == 1


def test_each_job_of_a_sweep_is_a_run_of_its_own_and_only_the_failed_one_is_marked(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_at(monkeypatch, 2, FloatingPointError("loss is not finite"))
    options = ["logger=wandb", "group=seeds", "trainer.max_epochs=1", "data.annotations.test=null"]
    sweep = train(tmp_path / "sweep", "-m", "seed=1,2", *options, status=1)
    assert "diverged" in capsys.readouterr().out
    files = {seed: written(sweep / f"seed={seed}") for seed in (1, 2)}
    assert [len(found) for found in files.values()] == [1, 1]
    (failed,), (finished,) = files.values()
    assert (failed.exit_code, finished.exit_code) == (1, 0)
    assert failed.run.run_id != finished.run.run_id
    assert failed.run.run_group == finished.run.run_group == "seeds"
    assert (failed.config["seed"], finished.config["seed"]) == (1, 2)
    assert [file.run.display_name.rpartition("/")[2] for file in (failed, finished)] == ["seed 1", "seed 2"]
    assert {"attention=rdsa", "data=qvhighlights", "scale=paper"} <= set(finished.run.tags)
    assert not (sweep / "seed=1" / LAST).exists()


def test_runs_without_wandb_write_no_wandb_files(
    train: Train,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_dir = train(tmp_path / "run", "logger=wandb", "trainer.max_epochs=1")
    assert (run_dir / "metrics.json").is_file()
    assert not list(run_dir.glob("wandb/*run-*"))
    assert not [message for message in caplog.messages if "wandb sync" in message]
    assert not list(finished.glob("wandb*"))


def mode(tmp_path: Path) -> str | None:
    """In which mode a run would start: None for what WANDB_MODE says, else online."""
    return tracking.wandb_logger(str(tmp_path), "sdst", None, [])._wandb_init["mode"]


def test_a_run_is_online_only_with_a_key_and_a_server_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        assert mode(tmp_path) == "offline"
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        assert mode(tmp_path) is None
        monkeypatch.delenv("WANDB_API_KEY")
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1:{port} login user password {'k' * 40}\n")
        (tmp_path / "netrc").chmod(0o600)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert mode(tmp_path) is None
    assert mode(tmp_path) == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert mode(tmp_path) is None


def test_loggers_group_is_the_sweeps_unless_it_is_overridden() -> None:
    assert compose(["logger=wandb"]).logger.wandb.group is None
    assert compose(["logger=wandb", "group=table5"]).logger.wandb.group == "table5"
    assert compose(["logger=wandb", "group=table5", "logger.wandb.group=mine"]).logger.wandb.group == "mine"


@pytest.mark.parametrize("package", ["wandb", "matplotlib"])
def test_missing_package_is_reported_before_the_run_starts(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
) -> None:
    found = tracking.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == package else found(name))
    train(tmp_path / "runs/run", "logger=wandb", status=2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert package in line
    assert "pip install 'sdst[track]'" in line
    assert not (tmp_path / "runs/run").exists()


def test_the_documented_sweep_gives_its_agents_commands_that_train() -> None:
    sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    page = (Path(__file__).parents[3] / "docs/wandb.md").read_text()
    (text,) = re.findall(r'```yaml title="search.yaml"\n(.*?)```', page, flags=re.DOTALL)
    search = yaml.safe_load(text)
    values = {"optim.lr": 3e-4, "attention": search["parameters"]["attention"]["values"][0]}
    assert set(values) == set(search["parameters"])
    words = sweeps.create_sweep_command_args(
        {"args": {key: {"value": value} for key, value in values.items()}}
    )
    words |= {"program": [search["program"]]}
    command = [
        word
        for part in search["command"]
        for word in (words[part[2:-1]] if part.startswith("${") else [part])
    ]
    assert command[:2] == ["sdst", "train"]
    config = compose(command[2:])
    assert config.optim.lr == 3e-4
    assert config.model.attention._target_ == "sdst.models.attention.Standard"
    assert f"{config.select.split}/{config.select.metric}" == search["metric"]["name"]
    assert "wandb" in config.logger
