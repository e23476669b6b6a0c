"""A multirun of ``sdst train`` trains every combination once, continues where it was stopped, and ends with a table."""

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from helpers.corpus import Corpus
from sdst.cli import main
from sdst.sweeps import jobs as sweep_jobs
from sdst.sweeps.jobs import train_once
from sdst.sweeps.manifest import manifest, read_manifest
from sdst.sweeps.tables import find_experiment

Multirun = Callable[..., int]
OLD_RUN = Path(__file__).parents[1] / "data/run_of_6d3aee6"


@pytest.fixture
def multirun(corpus: Corpus, tmp_path: Path) -> Multirun:
    """Function that trains with ``-m`` below ``tmp_path`` and returns the exit status."""

    def run(*overrides: str, folder: str = "multirun", flag: str = "-m") -> int:
        places = [f"paths.runs={tmp_path}", f"run_dir={tmp_path / folder}", "trainer.max_epochs=1"]
        return main(["train", *filter(None, [flag]), *corpus.overrides, *places, *overrides])

    return run


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "jobs.csv").open() as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def finished_at(runs: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("jobs/*/metrics.json")}


GROUPS = ("attention=standard,rdsa", "order=ca_sa_rdsa_ffn,no_rdsa", "levels.source=last")


def test_a_product_of_groups_trains_what_is_possible_and_lists_the_rest(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multirun(*GROUPS) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith(
        "sdst: error: model.attention=standard has no effect without 'rdsa'"
    )
    rows = table(tmp_path / "multirun")
    assert [(row["attention"], row["order"], row["state"]) for row in rows] == [
        ("standard", "ca_sa_rdsa_ffn", "finished"),
        ("rdsa", "ca_sa_rdsa_ffn", "finished"),
        ("rdsa", "no_rdsa", "finished"),
        ("standard", "no_rdsa", "refused"),
    ]
    for row in rows[:3]:
        folder = Path(row["folder"])
        link = tmp_path / "multirun" / f"attention={row['attention']},order={row['order']}"
        assert link.resolve() == folder
        best = metrics(folder)["best"]
        assert {key: float(row[f"val {key}"]) for key, value in best["val"].items() if value is not None} == {
            key: value for key, value in best["val"].items() if value is not None
        }
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["model"]["attention"]["_target_"].lower().endswith(row["attention"])
        assert ("rdsa" in config["model"]["modules"]) == (row["order"] != "no_rdsa")
        facts = json.loads((folder / "run.json").read_text())
        assert (facts["choices"]["attention"], facts["choices"]["order"]) == (row["attention"], row["order"])
        assert f"attention={row['attention']}" in facts["overrides"]
        shown = f"{best['val']['MR-full-mAP']:.2f}"
        (line,) = (line for line in out.splitlines() if line.endswith(row["folder"]))
        assert shown in line.split()


def test_jobs_are_those_of_single_runs_and_are_trained_once(
    multirun: Multirun, corpus: Corpus, tmp_path: Path
) -> None:
    assert multirun("seed=0,1") == 0
    before = finished_at(tmp_path)
    assert len(before) == 2
    assert multirun("seed=0,1,2", folder="again") == 0
    assert before.items() <= finished_at(tmp_path).items()
    assert [row["seed"] for row in table(tmp_path / "again")] == ["0", "1", "2"]
    assert multirun("seed=0,1", "optim.lr=2e-3") == 0
    rows = table(tmp_path / "multirun")
    assert {row["seed"]: Path(row["folder"]) for row in rows} == {
        seed: (tmp_path / f"multirun/seed={seed}").resolve() for seed in ("0", "1")
    }
    assert multirun("seed=0,1") == 0
    assert multirun("seed=1", folder="alone", flag="") == 0
    assert metrics(tmp_path / "alone")["best"] == metrics(tmp_path / "multirun/seed=1")["best"]


def test_a_stopped_multirun_goes_on_with_the_jobs_that_are_left(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(run_dir: Path, config: DictConfig) -> dict[str, Any]:
        if config.seed == 2:
            raise KeyboardInterrupt
        return train_once(run_dir, config)

    monkeypatch.setattr(sweep_jobs, "train_once", stopped)
    assert multirun("seed=1,2,3") == 130
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        *("finished", "missing", "missing")
    ]
    before = finished_at(tmp_path)
    assert len(before) == 1
    monkeypatch.undo()
    assert multirun("seed=1,2,3") == 0
    assert before.items() <= finished_at(tmp_path).items()
    assert [row["state"] for row in table(tmp_path / "multirun")] == ["finished"] * 3


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["attention=standard,rdsaa"], ["rdsaa", "choose from", "mixed_init"]),
        (["optim.lrr=1,2"], ["optim.lr"]),
        (["+attention=standard,rdsa"], ["attention", "without +"]),
        (["pooling=cls,avg"], ["/video/cls", "choose from"]),
        (["hydra.sweeper.params.seed=1"], ["hydra.sweeper.params"]),
        (["trainer.devices=2"], ["trainer.devices", "one device"]),
        (["hydra.sweeper.jobs_per_gpu=0"], ["jobs_per_gpu", "at least 1"]),
    ],
)
def test_a_multirun_without_possible_jobs_writes_nothing(
    multirun: Multirun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    named: list[str],
) -> None:
    assert multirun(*overrides) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for text in named:
        assert text in line
    assert not list(tmp_path.iterdir())


def test_plain_hydra_gives_each_job_a_numbered_folder(multirun: Multirun, tmp_path: Path) -> None:
    assert multirun("seed=1,2", "hydra/sweeper=basic") == 0
    assert [metrics(tmp_path / f"multirun/{job}")["epochs"] for job in (0, 1)] == [1, 1]
    assert not (tmp_path / "jobs").exists()


def test_an_experiment_gives_the_rows_of_its_table(
    multirun: Multirun, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multirun("experiment=tableJ", "trainer.limit_val_batches=1", flag="") == 0
    planned = read_manifest(manifest(tmp_path, "tableJ", "paper"))
    assert [job.row for job in planned] == [row.label for row in find_experiment("tableJ").rows]
    assert {job.identity for job in planned} == set(finished_at(tmp_path))
    assert {row["row"] for row in table(tmp_path / "sweeps/tableJ-paper")} == {job.row for job in planned}
    before = finished_at(tmp_path)
    same = [*corpus.overrides, "trainer.max_epochs=1", "trainer.limit_val_batches=1"]
    assert main(["sweep", "tableJ", "--scale", "paper", "--runs", str(tmp_path), *same]) == 0
    assert finished_at(tmp_path) == before
    capsys.readouterr()
    assert main(["report", "tableJ", "--scale", "paper", "--runs", str(tmp_path)]) == 0
    caption = capsys.readouterr().out.splitlines()[2].replace("\\", "")
    assert "All jobs have overrides: " in caption
    assert "trainer.limit_val_batches=1" in caption


def test_a_report_of_runs_is_grouped_by_what_differs_besides_the_seed(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multirun("attention=standard,rdsa", "seed=1,2") == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "multirun"), "--format", "csv"]) == 0
    groups = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {group["attention"] for group in groups} == {"standard", "rdsa"}
    for group in groups:
        values = [
            metrics(tmp_path / f"multirun/attention={group['attention']},seed={seed}")["best"]["val"][
                "MR-full-mAP"
            ]
            for seed in (1, 2)
        ]
        assert (group["seeds"], group["features"]) == ("2", "SIMULATED")
        assert float(group["val MR-full-mAP"]) == pytest.approx(statistics.fmean(values))
        assert float(group["val MR-full-mAP std"]) == pytest.approx(statistics.stdev(values))
    assert main(["report", *map(str, (tmp_path / "jobs").iterdir()), "--out", str(tmp_path / "out")]) == 2
    runs = [str(path) for path in (tmp_path / "jobs").iterdir() if path.is_dir()]
    pytest.importorskip("matplotlib")
    assert main(["report", *runs, "--out", str(tmp_path / "out")]) == 0
    *lines, _, picture = (tmp_path / "out/runs.md").read_text().splitlines()
    assert picture == "![Learning curves](runs.png)"
    assert (tmp_path / "out/runs.png").stat().st_size > 10_000
    assert len(lines) == 4
    assert lines[0].startswith("| attention | seeds | val R1@0.5 |")
    assert lines[0].endswith(" | features |")
    assert all(line.endswith(" | SIMULATED |") for line in lines[2:])
    assert " ± " in lines[2]


def test_a_report_takes_older_runs_and_refuses_other_folders(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(finished), str(OLD_RUN)]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert "| model.attention.cnn_depth |" in header  # older runs have no words: all options are compared
    assert len(rows) == 2
    for given in ([str(tmp_path)], [str(finished), "table5"]):
        assert main(["report", *given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "folder" in line
