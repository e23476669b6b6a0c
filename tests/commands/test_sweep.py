"""``sdst sweep`` runs every job of an experiment once and reports the jobs that fail."""

import fcntl
import json
import logging
import shutil
from pathlib import Path
from typing import IO, Any

import pytest
from omegaconf import DictConfig, OmegaConf

from helpers.corpus import Corpus, make_corpus, make_rows
from helpers.forked import Command
from helpers.sweep_table import ROWS, arguments, write_table
from sdst.cli import main
from sdst.config.compose import compose
from sdst.errors import UserError
from sdst.files.locks import lock
from sdst.sweeps import jobs as sweep_jobs
from sdst.sweeps.jobs import NOT_IDENTITY, identity, run_job, train_once
from sdst.sweeps.manifest import Planned, manifest, read_manifest
from sdst.training.module import GroundingModule


@pytest.fixture(scope="module")
def tables(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("experiments"), corpus)


@pytest.fixture(scope="module")
def swept(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder after a sweep of two rows with two seeds. Read only."""
    runs = tmp_path_factory.mktemp("swept")
    assert main(["sweep", *arguments(tables, runs, "--seeds", "0", "1")]) == 0
    return runs


def jobs(runs: Path, name: str = "tableX") -> dict[tuple[str, int], str | None]:
    return {(job.row, job.seed): job.identity for job in read_manifest(manifest(runs, name, "laptop"))}


def finished_at(runs: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("jobs/*/metrics.json")}


def result(runs: Path, name: str) -> dict[str, Any]:
    stored = json.loads((runs / "jobs" / name / "metrics.json").read_text())
    return {key: stored[key] for key in ("best", "last", "selected", "epochs")}


# --- jobs of a sweep ---


def test_sweep_finishes_one_job_per_row_and_seed(swept: Path) -> None:
    found = jobs(swept)
    assert list(found) == [("Standard", 0), ("Standard", 1), ("Ours", 0), ("Ours", 1)]
    assert set(found.values()) == set(finished_at(swept))
    for (row, seed), name in found.items():
        config = OmegaConf.load(swept / "jobs" / str(name) / "config.yaml")
        attention = "Standard" if row == "Standard" else "RDSA"
        assert (config.seed, config.model.attention._target_) == (seed, f"sdst.models.attention.{attention}")
        assert (config.group, config.name) == ("tableX", f"tableX/{row}/seed {seed}")
        assert not (swept / "jobs" / str(name) / "failed.txt").exists()
        assert "best of 1 epochs" in (swept / "jobs" / f"{name}.log").read_text()


def test_sweep_job_has_the_metrics_of_the_same_train_command(
    swept: Path, corpus: Corpus, tmp_path: Path
) -> None:
    overrides = [*corpus.overrides, "trainer.max_epochs=1", "attention=standard", "seed=1"]
    assert main(["train", *overrides, f"run_dir={tmp_path / 'jobs/hand'}"]) == 0
    assert result(tmp_path, "hand") == result(swept, str(jobs(swept)["Standard", 1]))


def test_second_sweep_trains_only_new_seeds(
    tables: Path, corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert main(["sweep", *arguments(tables, tmp_path)]) == 0
    (line,) = (line for line in caplog.messages if "job 2 of 2 (Ours/seed 0) finished" in line)
    best = result(tmp_path, str(jobs(tmp_path)["Ours", 0]))["best"]["val"]["MR-full-mAP"]
    assert line.endswith(f": val MR-full-mAP {best:.2f} SIMULATED")
    before = finished_at(tmp_path)
    assert main(["sweep", *arguments(tables, tmp_path)]) == 0
    assert finished_at(tmp_path) == before
    assert main(["sweep", *arguments(tables, tmp_path, "--seeds", "1")]) == 0
    assert before.items() <= finished_at(tmp_path).items()
    assert list(jobs(tmp_path)) == [("Standard", 0), ("Standard", 1), ("Ours", 0), ("Ours", 1)]


def test_earlier_seeds_stay_only_while_their_jobs_are_unchanged(
    tables: Path, swept: Path, tmp_path: Path
) -> None:
    shutil.copytree(swept, tmp_path / "runs")
    assert main(["sweep", *arguments(tables, tmp_path / "runs", "--seeds", "1")]) == 0
    assert jobs(tmp_path / "runs") == jobs(swept)
    assert main(["sweep", *arguments(tables, tmp_path / "runs", "--seeds", "1", "optim.lr=1e-2")]) == 0
    assert list(jobs(tmp_path / "runs")) == [("Standard", 1), ("Ours", 1)]


def test_two_experiments_train_a_common_job_once(tables: Path, corpus: Corpus, tmp_path: Path) -> None:
    folder = write_table(
        tmp_path / "experiments", corpus, rows=ROWS.partition("  - label: Standard")[0] + OURS
    )
    write_table(folder, corpus, name="tableY", rows=OTHER + OURS)
    assert main(["sweep", *arguments(folder, tmp_path)]) == 0
    before = finished_at(tmp_path)
    assert len(before) == 1
    assert main(["sweep", *arguments(folder, tmp_path, name="tableY")]) == 0
    assert jobs(tmp_path, "tableY")["SDST", 0] == jobs(tmp_path)["SDST", 0]
    assert len(finished_at(tmp_path)) == 2
    assert before.items() <= finished_at(tmp_path).items()


OURS = "  - {label: SDST, overrides: [], paper: [null, null, null, null]}\n"
OTHER = "  - {label: Last, overrides: [levels.source=last], paper: [null, null, null, null]}\n"


def test_sweep_waits_for_a_job_that_another_sweep_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[bool] = []
    with (tmp_path / "abc.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # excludes a second open file of the same process too
        assert run_job(tmp_path, "abc", wait=False) == "busy"
        assert [path.name for path in tmp_path.iterdir()] == ["abc.lock"]

        def finish_other_sweep(file: IO[Any], *, wait: bool) -> bool:
            waits.append(wait)
            assert not lock(file)
            (tmp_path / "abc").mkdir()
            (tmp_path / "abc/metrics.json").write_text("{}")
            other.close()
            return lock(file, wait=wait)

        monkeypatch.setattr(sweep_jobs, "lock", finish_other_sweep)
        assert run_job(tmp_path, "abc", wait=True) == "finished"
    assert waits == [True]


@pytest.mark.processes
def test_two_concurrent_sweeps_train_each_job_once(tables: Path, tmp_path: Path) -> None:
    both = [Command(["sweep", *arguments(tables, tmp_path, "--seeds", "0", "1")]) for _ in range(2)]
    for sweep in both:
        status, lines = sweep.wait()
        assert status == 0, lines
        assert lines
    logs = [path.read_text() for path in tmp_path.glob("jobs/*.log")]
    assert [log.count("best of 1 epochs") for log in logs] == [1, 1, 1, 1]


# --- failures ---


def test_sweep_continues_after_a_failed_job_and_the_next_sweep_retries_it(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(run_dir: Path, config: DictConfig) -> dict[str, Any]:
        if config.model.attention._target_.endswith("Standard"):
            raise [UserError("no luck"), ValueError("a bug")][config.seed]
        return train_once(run_dir, config)

    monkeypatch.setattr(sweep_jobs, "train_once", failing)
    command = ["sweep", *arguments(tables, tmp_path, "--seeds", "0", "1")]
    assert main(command) == 1
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[2:4] for line in table[1:]] == [
        *(["0", "failed"], ["1", "failed"]),
        *(["0", "finished"], ["1", "finished"]),
    ]
    assert table[1].endswith("no luck")
    assert table[2].endswith("ValueError: a bug")
    found = jobs(tmp_path)
    refused, crashed = (tmp_path / "jobs" / str(found["Standard", seed]) / "failed.txt" for seed in (0, 1))
    assert refused.read_text() == "no luck\n"
    assert crashed.read_text().startswith("Traceback")
    assert crashed.read_text().endswith("ValueError: a bug\n")
    assert set(finished_at(tmp_path)) == {found["Ours", 0], found["Ours", 1]}
    monkeypatch.undo()
    assert main(command) == 0
    assert set(finished_at(tmp_path)) == set(found.values())
    assert not refused.exists()


def refusal(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    capsys.readouterr()
    assert main(["sweep", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("attention=standard", "model.atention=standard", ["model.atention", "did you mean"]),
        ("attention=standard", "data.features=none.h5", ["none.h5", "no such file"]),
        ("attention=standard", "data.pooling=cls", ["/video/cls", "choose from"]),
        ("attention=standard", "levels.count=x", ["count"]),
        ("attention=standard", "trainer.precision=8-bit", ["trainer.precision", "one of"]),
        ("attention=standard", "hydra/launcher=joblib", ["hydra/launcher=joblib", "to sdst sweep"]),
        ("attention=standard", "model=invented", ["model=invented", "choose from", "r2_tuning"]),
        ("attention=standard", "order=no_rdsa, attention=standard", ["attention=standard", "without 'rdsa'"]),
    ],
)
def test_sweep_refuses_an_invalid_row_before_it_writes_anything(
    corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    named: list[str],
) -> None:
    folder = write_table(tmp_path / "experiments", corpus, rows=ROWS.replace(old, new))
    line = refusal(capsys, *arguments(folder, tmp_path / "runs"))
    for text in ("tableX.yaml: row 'Standard'", *named):
        assert text in line
    assert not (tmp_path / "runs").exists()


def test_sweep_refuses_invalid_arguments(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for extra, named in {
        "seed=3": "--seeds 3",
        "model.dimm=3": "model.dim",
        "hydra/launcher=rocket": "rocket",
        "hydra.launcher.n_jobz=3": "n_jobz",
    }.items():
        assert named in refusal(capsys, *arguments(tables, tmp_path / "runs", extra))
    assert "tableX" in refusal(capsys, "table99", "--experiments", str(tables))
    assert not (tmp_path / "runs").exists()


# --- a job's identity ---


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in node.items():
        nested = isinstance(value, dict) and value and f"{prefix}{key}" not in NOT_IDENTITY
        found |= leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "x"]
    return f"{value}x"


def test_identity_depends_on_every_key_except_paths_and_machine(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cached function below it is not patched: its cache would keep the value for other tests.
    monkeypatch.setattr(sweep_jobs, "_features_hash", lambda path, pooling: "fixed")
    config = OmegaConf.create(OmegaConf.to_container(compose(corpus.overrides), resolve=True))
    before = identity(config)
    kept = []
    for key, value in leaves(OmegaConf.to_container(config)).items():
        if key in ("data.features", "data.annotations"):
            continue  # identity hashes their content; tested below
        changed = config.copy()
        OmegaConf.update(changed, key, {"x": 1} if isinstance(value, dict) else another(value), merge=False)
        if identity(changed) == before:
            kept.append(key)
    places = {
        "group",
        "name",
        "tags",
        "run_dir",
        "resume",
        "recompute",
        "logger",
        "paths",
        "trainer.accelerator",
        "trainer.devices",
        "data.num_workers",
        "data.cache",
    }
    assert set(kept) == places


def test_identity_depends_on_file_contents_and_not_on_file_names(corpus: Corpus, tmp_path: Path) -> None:
    rows = {split: make_rows(split, count) for split, count in (("train", 10), ("val", 5), ("test", 4))}
    same = make_corpus(tmp_path / "same", rows)
    assert identity(compose(same.overrides)) == identity(compose(corpus.overrides))
    rows["val"][0]["query"] += " again"
    annotated = make_corpus(tmp_path / "annotations", rows)
    assert identity(compose(annotated.overrides)) != identity(compose(corpus.overrides))
    others = make_corpus(tmp_path / "features", rows, seed=7)
    mixed = [*annotated.overrides, f"data.features={others.features}"]
    assert identity(compose(mixed)) != identity(compose(annotated.overrides))


def test_reader_refuses_a_manifest_that_sweep_did_not_write(tmp_path: Path) -> None:
    path = tmp_path / "tableX-laptop.json"
    assert read_manifest(path) == []
    for text in ("{", "{}", '{"jobs": [{"row": "a"}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not written by sdst sweep"):
            read_manifest(path)
    path.write_text(json.dumps({"jobs": [{"row": "a", "dataset": "b", "seed": 0, "identity": None}]}))
    assert read_manifest(path) == [Planned("a", "b", 0, None)]


# --- resuming ---


def test_interrupted_job_resumes_with_its_files_moved(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[None] = []
    step = GroundingModule.training_step

    def interrupted(self: GroundingModule, *given: Any) -> Any:
        steps.append(None)
        if len(steps) == 5:  # second step of the second epoch
            raise RuntimeError
        return step(self, *given)

    (tmp_path / "jobs").mkdir()
    whole = train_once(tmp_path / "jobs/whole", compose(corpus.overrides))
    monkeypatch.setattr(GroundingModule, "training_step", interrupted)
    moved = tmp_path / "moved.h5"
    moved.write_bytes(corpus.features.read_bytes())
    with pytest.raises(RuntimeError):
        train_once(tmp_path / "jobs/cut", compose([*corpus.overrides, f"data.features={moved}"]))
    moved.unlink()
    config = compose([*corpus.overrides, "model.dim=32"])  # the stored configuration wins, except for paths
    assert train_once(tmp_path / "jobs/cut", config)["best"] == whole["best"]
    assert len(steps) == 5 + 3
    stored = OmegaConf.load(tmp_path / "jobs/cut/config.yaml")
    assert (stored.model.dim, stored.data.features) == (16, str(corpus.features))


def test_metrics_report_fit_seconds_and_steps_per_second(finished: Path) -> None:
    stored = json.loads((finished / "metrics.json").read_text())
    assert stored["fit_seconds"] > 0
    assert stored["steps_per_second"] >= 6 / stored["fit_seconds"]  # two epochs of three steps
