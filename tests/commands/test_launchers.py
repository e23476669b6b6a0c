"""Jobs run through every launcher of conf/hydra/launcher whose package is installed, and claim GPUs."""

import importlib.util
import json
import multiprocessing
import os
import re
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from helpers.corpus import Corpus
from helpers.fake_slurm import write_fake_slurm
from helpers.forked import Command
from helpers.sweep_table import arguments, write_table
from sdst.cli import main
from sdst.config.compose import conf_dir, register_schema
from sdst.errors import UserError
from sdst.sweeps.gpus import claim_gpu
from sdst.sweeps.launchers import check_launcher, end_idle_jobs_with_sweep, explain_launcher

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/\w+' is validated:UserWarning")
PACKAGES = {"joblib": "joblib", "ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""Launcher -> the package hydra-X-launcher, and the library X that it needs."""


@pytest.fixture(scope="module")
def tables(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table X with two rows, and table Y with the second alone."""
    folder = write_table(tmp_path_factory.mktemp("experiments"), corpus)
    ours = "  - {label: SDST, overrides: [], paper: [null, null, null, null]}\n"
    return write_table(folder, corpus, name="tableY", rows=ours)


@pytest.fixture(scope="module")
def sequential(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a sweep without a launcher."""
    runs = tmp_path_factory.mktemp("sequential")
    assert main(["sweep", *arguments(tables, runs)]) == 0
    return results(runs)


def results(runs: Path) -> dict[str, Any]:
    """Identity -> metrics of each finished job."""
    found = {}
    for path in runs.glob("jobs/*/metrics.json"):
        stored = json.loads(path.read_text())
        found[path.parent.name] = {key: stored[key] for key in ("best", "last", "selected", "epochs")}
    return found


def need(launcher: str) -> None:
    package = PACKAGES[launcher]
    if not (importlib.util.find_spec(package) and importlib.util.find_spec("hydra_plugins")):
        pytest.skip(f"{package} is not installed")
    pytest.importorskip(
        f"hydra_plugins.hydra_{package}_launcher", reason=f"hydra-{package}-launcher is not installed"
    )


def composed(*overrides: str) -> DictConfig:
    register_schema()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("train", list(overrides), return_hydra_config=True)
    launcher: DictConfig = config.hydra.launcher
    return launcher


# --- configurations ---


def test_launchers_have_the_names_that_hydra_users_know() -> None:
    assert {path.stem for path in (conf_dir() / "hydra/launcher").glob("*.yaml")} == set(PACKAGES)


@pytest.mark.parametrize(
    ("launcher", "ours"),
    [
        ("joblib", {"n_jobs": 2, "pre_dispatch": "n_jobs"}),
        ("ray", {"ray.remote.num_gpus": 1, "ray.init.address": "local"}),
        ("submitit_local", {"timeout_min": 1440}),
        ("submitit_slurm", {"gpus_per_node": 1, "cpus_per_task": 8, "mem_gb": 32, "timeout_min": 1440}),
    ],
)
def test_our_launcher_has_all_options_of_the_plugin_and_our_values(
    launcher: str, ours: dict[str, Any]
) -> None:
    need(launcher)
    config = composed(f"hydra/launcher={launcher}")
    for key, value in ours.items():
        assert OmegaConf.select(config, key) == value
    own = OmegaConf.structured(ConfigStore.instance().load(f"hydra/launcher/{launcher}.yaml").node)
    file = OmegaConf.load(conf_dir() / f"hydra/launcher/{launcher}.yaml")
    assert set(file) == set(own)
    assert file._target_ == own._target_


@pytest.mark.parametrize("launcher", PACKAGES)
def test_sweep_refuses_an_unknown_launcher_option(
    launcher: str, tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", *arguments(tables, tmp_path / "runs"), f"hydra/launcher={launcher}"]
    assert main([*command, "hydra.launcher.n_jobz=3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "n_jobz" in line
    assert not (tmp_path / "runs").exists()


def test_a_launcher_that_cannot_start_jobs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    target = "hydra_plugins.hydra_{}"
    absent = OmegaConf.create({"_target_": target.format("rocket_launcher.rocket.RocketLauncher")})
    with pytest.raises(UserError, match="pip install hydra-rocket-launcher"):
        check_launcher(absent)
    check_launcher(
        OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"})
    )
    monkeypatch.setattr("sdst.sweeps.launchers.find_spec", lambda name: True)
    monkeypatch.setenv("PATH", "")
    slurm, ray = (composed(f"hydra/launcher={name}") for name in ("submitit_slurm", "ray"))
    with pytest.raises(UserError, match="login node"):
        check_launcher(slurm)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="num_gpus=0"):
        check_launcher(ray)
    ray.ray.init.address = "auto"  # the cluster may have GPUs elsewhere
    check_launcher(ray)


def test_processes_of_joblib_watch_the_sweep_before_their_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    need("joblib")
    joblib = importlib.import_module("joblib.parallel")
    monkeypatch.setitem(joblib.BACKENDS, "loky", joblib.BACKENDS["loky"])  # restored at the end
    for _ in range(2):  # two multiruns in one process
        end_idle_jobs_with_sweep(OmegaConf.create({"_target_": "x.JoblibLauncher"}))
    names = joblib.Parallel(2, backend="loky")(
        joblib.delayed(lambda: [thread.name for thread in threading.enumerate()])() for _ in range(2)
    )
    assert all(any("_wait" in name for name in found) for found in names)


# --- jobs ---


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(("launcher", "table"), [("joblib", "tableX"), ("submitit_local", "tableY")])
def test_launcher_gives_the_metrics_of_a_sequential_sweep(
    tables: Path, sequential: dict[str, Any], tmp_path: Path, launcher: str, table: str
) -> None:
    need(launcher)
    command = ["sweep", *arguments(tables, tmp_path, name=table), f"hydra/launcher={launcher}"]
    assert main(command) == 0
    trained = results(tmp_path)
    assert len(trained) == {"tableX": 2, "tableY": 1}[table]
    assert trained.items() <= sequential.items()


@pytest.mark.slow
@pytest.mark.processes
def test_ray_launcher_gives_the_metrics_of_a_sequential_sweep(
    tables: Path, sequential: dict[str, Any], tmp_path: Path
) -> None:
    need("ray")
    launcher = ["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0"]
    command = ["sweep", *arguments(tables, tmp_path), *launcher, "hydra.launcher.ray.init.num_cpus=2"]
    status, lines = Command(command).wait()  # a process of its own, because Ray stays until its process ends
    assert status == 0, lines
    assert results(tmp_path) == sequential
    assert not [line for line in lines if "ConfigStore schema" in line or "Traceback" in line]


@pytest.mark.slow
@pytest.mark.processes
def test_slurm_launcher_submits_an_array_of_jobs_with_one_gpu_each(
    tables: Path, sequential: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("submitit_slurm")
    slurm = write_fake_slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{slurm}{os.pathsep}{os.environ['PATH']}")
    limits = ["hydra.launcher.array_parallelism=1", "hydra.launcher.partition=gpu"]
    command = ["sweep", *arguments(tables, tmp_path), "hydra/launcher=submitit_slurm", *limits]
    assert main(command) == 0, [path.read_text() for path in slurm.glob("*.log")]
    assert results(tmp_path) == sequential
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", (slurm / "submitted.sh").read_text(), re.MULTILINE))
    expected = {"array": "0-1%1", "gpus-per-node": "1", "cpus-per-task": "8", "mem": "32GB", "time": "1440"}
    assert expected.items() <= asked.items()
    assert asked["partition"] == "gpu"
    assert len(list((tmp_path / "jobs/slurm").glob("7_*/*_result.pkl"))) == 2


def test_sweep_says_in_one_line_why_slurm_refuses_the_jobs(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need("submitit_slurm")
    slurm = write_fake_slurm(tmp_path / "slurm")
    (slurm / "sbatch").write_text("#!/bin/bash\necho sbatch: error: invalid partition >&2\nexit 1\n")
    monkeypatch.setenv("PATH", f"{slurm}{os.pathsep}{os.environ['PATH']}")
    assert main(["sweep", *arguments(tables, tmp_path), "hydra/launcher=submitit_slurm"]) == 2
    assert "invalid partition" in capsys.readouterr().err.splitlines()[-1]


def test_errors_of_launchers_are_explained_and_bugs_are_raised() -> None:
    with pytest.raises(UserError, match="no cluster at 10; check"), explain_launcher():
        raise ConnectionError("no cluster\nat 10")
    with pytest.raises(KeyError), explain_launcher():
        raise KeyError


# --- GPUs ---


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that nobody else claims."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def claimed(stack: ExitStack, jobs: int, **options: int) -> list[int | None]:
    return [stack.enter_context(claim_gpu(**options)) for _ in range(jobs)]


@pytest.mark.usefixtures("gpus")
def test_concurrent_jobs_claim_different_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        assert claimed(stack, 2) == [0, 1]
        assert claimed(stack, 1)[0] in (0, 1)
    with claim_gpu() as again:
        assert again == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with claim_gpu() as gpu:
        assert gpu is None


@pytest.mark.usefixtures("gpus")
def test_jobs_that_share_gpus_take_the_gpu_with_most_free_places() -> None:
    with ExitStack() as stack:
        (first,) = claimed(stack, 1, jobs_per_gpu=3)
        with claim_gpu(jobs_per_gpu=3) as second:
            assert (first, second) == (0, 1)
        assert claimed(stack, 5, jobs_per_gpu=3) == [1, 0, 1, 0, 1]
        assert claimed(stack, 1, jobs_per_gpu=3)[0] in (0, 1)


@pytest.mark.usefixtures("gpus")
def test_a_gpu_has_one_claim_whatever_its_index_among_the_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    with claim_gpu():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        with claim_gpu() as second:
            assert second == 1
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
        with claim_gpu() as third, claim_gpu() as shared:
            assert third == 0
            assert shared in (0, 1)


@pytest.mark.usefixtures("gpus")
@pytest.mark.processes
def test_processes_spread_evenly_over_gpus_and_free_them_when_killed() -> None:
    context = multiprocessing.get_context("fork")  # keeps the two GPUs of this test
    for _ in range(2):
        answers = context.SimpleQueue()
        jobs = [context.Process(target=hold_gpu, args=(answers,)) for _ in range(6)]
        for job in jobs:
            job.start()
        assert sorted(answers.get() for _ in jobs) == [0, 0, 0, 1, 1, 1]
        for job in jobs:
            job.kill()
            job.join()


def hold_gpu(answers: Any) -> None:
    with claim_gpu(jobs_per_gpu=3) as gpu:
        answers.put(gpu)
        multiprocessing.Event().wait()
