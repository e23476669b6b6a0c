"""Runs in several trackers at once: after a kill and a resumption each holds what the CSV log holds, step by step."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from helpers.wandb_file import WandbFile
from sdst.cli import main
from sdst.errors import Stopped
from sdst.training.curves import read_rows
from sdst.training.loggers import tracker
from sdst.training.module import GroundingModule

wandb = pytest.importorskip("wandb")
pytest.importorskip("matplotlib")

pytestmark = pytest.mark.slow

Train = Callable[..., Path]
Points = dict[tuple[str, int], float]
"""Key and step -> logged value."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing set, so that wandb goes offline and MLflow uses the local database."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield
    wandb.teardown()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs. MLflow needs ten seconds to make one, so each test copies this one."""
    for package in ("mlflow", "sqlalchemy", "alembic", "cryptography"):
        pytest.importorskip(package)
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def runs(empty_database: Path, tmp_path: Path) -> Path:
    """A folder of runs with an MLflow database."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Act before one training step of the process, counted from 1."""
    original, steps = GroundingModule.training_step, []

    def broken(self: GroundingModule, *arguments: Any) -> torch.Tensor:
        steps.append(None)
        if len(steps) == step:
            act()
        return original(self, *arguments)

    monkeypatch.setattr(GroundingModule, "training_step", broken)


def fail() -> None:
    raise RuntimeError("power cut")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def in_csv(run_dir: Path) -> Points:
    return {(key, step): value for step, row in read_rows(run_dir) for key, value in row.items()}


def wandb_files(run_dir: Path) -> list[WandbFile]:
    wandb.teardown()  # its service writes behind the run's back
    return [WandbFile(path) for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))]


def in_wandb(run_dir: Path) -> Points:
    points: Points = {}
    for file in wandb_files(run_dir):
        for row in file.history:
            for key, value in row.items():
                if key.startswith(("_", "trainer/global_step", "val/plots", "val/predictions")):
                    continue
                assert (key, row["_step"]) not in points
                points[key, row["_step"]] = value
    return points


def events_of(run_dir: Path) -> Any:
    """TensorBoard's own reading of the only folder with events."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (folder,) = {path.parent for path in run_dir.rglob("events.*")}
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return SimpleNamespace(folder=folder.relative_to(run_dir).as_posix(), content=events)


def in_tensorboard(run_dir: Path) -> Points:
    points: Points = {}
    content = events_of(run_dir).content
    for key in content.Tags()["scalars"]:
        for event in content.Scalars(key):
            assert (key, event.step) not in points or key == "epoch"  # comes with training and validation
            points[key, event.step] = event.value
    return points


def mlflow_run(runs: Path, run_dir: Path) -> tuple[Any, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    return client, client.get_run((run_dir / "mlflow-run-id").read_text().strip())


def in_mlflow(runs: Path, run_dir: Path) -> Points:
    client, run = mlflow_run(runs, run_dir)
    points: Points = {}
    for key in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, key):
            assert (key, point.step) not in points or key == "epoch"
            points[key, point.step] = point.value
    return points


@pytest.mark.parametrize(("act", "error"), [(fail, RuntimeError), (terminate, Stopped)])
def test_each_tracker_holds_the_csv_log_after_a_resumption(
    train: Train,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[], None],
    error: type[Exception],
) -> None:
    pytest.importorskip("tensorboard")
    run_dir = runs / "run"
    named = ["name=table5/Stand. CA/seed 1", "group=table5", "tags=['attention=rdsa',mine]"]
    with monkeypatch.context() as context:
        break_at(context, 5, act)
        with pytest.raises(error):
            train(run_dir, "logger=[wandb,tensorboard,mlflow]", *named)
    assert mlflow_run(runs, run_dir)[1].info.status == "FAILED"
    assert main(["train", f"resume={run_dir}"]) == 0

    expected = in_csv(run_dir)
    assert {step for key, step in expected if key == "train/loss"} >= {0, 1, 2, 5}
    assert in_wandb(run_dir) == pytest.approx(expected)
    assert in_tensorboard(run_dir) == pytest.approx(expected, rel=1e-6)  # which stores 32 bits
    assert in_mlflow(runs, run_dir) == {
        (key.replace("@", "_"), step): x for (key, step), x in expected.items()
    }

    for file in wandb_files(run_dir):
        assert (file.run.display_name, file.run.run_group) == ("table5/Stand. CA/seed 1", "table5")
        assert list(file.run.tags) == ["attention=rdsa", "mine"]
    events = events_of(run_dir)
    assert events.folder == "tensorboard/table5/Stand. CA/seed 1"
    assert yaml.safe_load((run_dir / events.folder / "hparams.yaml").read_text())["optim"]["lr"] == 1e-3
    assert set(events.content.PluginTagToContent("hparams")) == {
        f"_hparams_/{part}" for part in ("experiment", "session_start_info", "session_end_info")
    }
    _, run = mlflow_run(runs, run_dir)
    assert (run.info.run_name, run.info.status) == ("table5/Stand. CA/seed 1", "FINISHED")
    assert {key: run.data.tags[key] for key in ("attention", "mine", "group")} == {
        "attention": "rdsa",
        "mine": "true",
        "group": "table5",
    }
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.params["run.parameters.total"].isdigit()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_wandb_gets_the_steps_that_a_killed_run_could_not_write(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    with monkeypatch.context() as context:
        break_at(context, 5, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            train(run_dir, "logger=wandb")
    wandb.teardown()
    (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    path.write_bytes(path.read_bytes()[:7])  # what a SIGKILL leaves: wandb writes blocks of 32 kB
    assert main(["train", f"resume={run_dir}"]) == 0
    assert in_wandb(run_dir) == pytest.approx(in_csv(run_dir))


def test_half_a_row_at_the_end_of_the_csv_log_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "csv/version_0").mkdir(parents=True)
    (tmp_path / "csv/version_0/metrics.csv").write_text("lr,epoch,step\n0.1,0,0\n0.2,0")
    assert list(read_rows(tmp_path)) == [(0, {"lr": 0.1, "epoch": 0.0})]


def uploaded(run_dir: Path) -> list[Path]:
    """The files of the model artifacts that the parts of an offline wandb run have recorded, oldest first."""
    from wandb.proto import wandb_internal_pb2

    from sdst.training.loggers.wandb_file import payloads

    wandb.teardown()
    found = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb")):
        for payload in payloads(path):
            record = wandb_internal_pb2.Record.FromString(payload)
            artifact = (
                record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
            )
            if artifact.type == "model":
                (entry,) = artifact.manifest.contents
                assert entry.path == "model.ckpt"
                assert {"best", "latest"} == set(artifact.aliases)
                found.append(Path(entry.local_path))
    return found


def test_wandb_records_the_best_checkpoint_even_if_it_is_from_before_a_resumption(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    with monkeypatch.context() as context:
        break_at(context, 4, fail)  # the first step of the second epoch
        with pytest.raises(RuntimeError, match="power cut"):
            train(run_dir, "logger=wandb", "+logger.wandb.log_model=true", "optim.lr=0")  # no epoch is better
    assert not uploaded(run_dir)
    assert main(["train", f"resume={run_dir}"]) == 0
    (file,) = uploaded(run_dir)
    assert torch.load(file, weights_only=False)["epoch"] == 0
    assert file.read_bytes() == (run_dir / "checkpoints/best.ckpt").read_bytes()


def test_wandb_records_every_new_best_checkpoint(train: Train, tmp_path: Path) -> None:
    run_dir = train(tmp_path / "run", "logger=wandb", "+logger.wandb.log_model=all", "trainer.max_epochs=1")
    (file,) = uploaded(run_dir)  # and not last.ckpt, which Lightning calls the best as well
    assert file.read_bytes() == (run_dir / "checkpoints/best.ckpt").read_bytes()


def test_mlflow_stores_the_best_checkpoint_beside_its_database(train: Train, runs: Path) -> None:
    run_dir = train(runs / "run", "logger=mlflow", "+logger.mlflow.log_model=true", "trainer.max_epochs=1")
    stored = list((runs / "mlflow-artifacts").rglob("*.ckpt"))
    assert [path.name for path in stored] == ["best.ckpt"]
    assert stored[0].read_bytes() == (run_dir / "checkpoints/best.ckpt").read_bytes()
    client, run = mlflow_run(runs, run_dir)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["best"]


def test_wandbs_own_arguments_reach_it(train: Train, tmp_path: Path) -> None:
    own = [f"+logger.wandb.{option}" for option in ("entity=me", "notes='a try'", "job_type=ablation")]
    run_dir = train(tmp_path / "run", "logger=wandb", "trainer.max_epochs=1", *own)
    (file,) = wandb_files(run_dir)
    assert (file.run.entity, file.run.notes, file.run.job_type) == ("me", "a try", "ablation")


def test_a_name_leads_tensorboard_to_no_other_folder(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run_dir = train(tmp_path / "run", "logger=tensorboard", "name=/../../a/./b", "trainer.max_epochs=1")
    assert events_of(run_dir).folder == "tensorboard/a/b"


@pytest.mark.parametrize(
    ("choice", "package"), [("mlflow", "mlflow"), ("mlflow", "sqlalchemy"), ("tensorboard", "tensorboard")]
)
def test_a_missing_package_is_reported_before_the_run_starts(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choice: str,
    package: str,
) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda name: None if name == package else object())
    train(tmp_path / "runs/run", f"logger={choice}", status=2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"logger.{choice}: {package} is not installed; pip install 'sdst[track]'")
    assert not (tmp_path / "runs/run").exists()


def test_an_mlflow_server_that_does_not_answer_is_reported_before_the_run_starts(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracker, "find_spec", lambda name: object())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    train(tmp_path / "runs/run", "logger=mlflow", status=2)
    assert "no server answers at http://127.0.0.1:9; start it, or correct" in capsys.readouterr().err
    assert not (tmp_path / "runs/run").exists()


def test_mlflow_tracking_uri_is_respected_and_a_lost_run_is_reported(
    train: Train,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other.db"
    shutil.copy(runs / "mlflow.db", other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    monkeypatch.chdir(tmp_path)  # MLflow puts artifacts of such a store here
    with monkeypatch.context() as context:
        break_at(context, 4, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            train(runs / "run", "logger=mlflow")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{other}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(["train", f"resume={runs / 'run'}"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "logger.mlflow" in line]
    assert "refuses the run" in line
    assert "give the MLFLOW_TRACKING_URI or paths.runs that the run had, or remove" in line
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    assert main(["train", f"resume={runs / 'run'}"]) == 0


def test_a_damaged_mlflow_database_is_one_line(
    train: Train, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "mlflow.db").write_text("no database" * 1000)
    train(runs / "run", "logger=mlflow", status=2)
    assert f"logger.mlflow: sqlite:///{runs}/mlflow.db cannot be used" in capsys.readouterr().err
    assert not (runs / "run").exists()


def test_log_model_has_three_values(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "logger=wandb", "+logger.wandb.log_model=best", status=2)
    assert "logger.wandb.log_model must be true, false or all, got 'best'" in capsys.readouterr().err
