"""``sdst report --also``: tables from the numbers of earlier reports, without their run folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.made_up_runs import write_runs
from sdst.cli import main
from sdst.reports.plots import learning_curve
from sdst.reports.records import read_records
from sdst.reports.results import Results, collect
from sdst.sweeps.manifest import manifest, read_manifest
from sdst.sweeps.tables import find_experiment

TABLES = Path(__file__).parents[3] / "experiments"
NAMES = ("table5", "tableI")  # they share jobs
CURVE = (10.0, 20.5, 42.25)


@pytest.fixture
def experiments(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(TABLES / f"{name}.yaml", folder)
    return folder


@pytest.fixture
def runs(experiments: Path, tmp_path: Path) -> Path:
    """Runs of all tables with seeds 0 and 1, each with a learning curve."""
    folder = tmp_path / "runs"
    write_runs(folder, [find_experiment(name, experiments) for name in NAMES])
    for job in (folder / "jobs").iterdir():
        log = job / "csv/version_0/metrics.csv"
        log.parent.mkdir(parents=True)
        rows = [f"{epoch},{epoch * 10 + 9},{value}" for epoch, value in enumerate(CURVE)]
        log.write_text("\n".join(["epoch,step,val/MR-full-mAP", *rows]) + "\n")
    return folder


Report = Callable[..., dict[str, bytes]]


@pytest.fixture
def report_all(experiments: Path, tmp_path: Path) -> Report:
    """Write all reports of a folder of runs and return their files: name -> content."""

    def write(name: str, runs: Path, *options: str) -> dict[str, bytes]:
        where = ["--experiments", str(experiments), "--runs", str(runs), "--out", str(tmp_path / name)]
        assert main(["report", "--all", *where, *options]) == 0
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    return write


def remove_seed(runs: Path, seed: int) -> None:
    """Remove a seed from all sweeps of a folder of runs, as if it was never asked for."""
    removed = set()
    for path in runs.glob("sweeps/*.json"):
        document = json.loads(path.read_text())
        removed |= {job["identity"] for job in document["jobs"] if job["seed"] == seed}
        document["jobs"] = [job for job in document["jobs"] if job["seed"] != seed]
        path.write_text(json.dumps(document))
    for name in removed:
        shutil.rmtree(runs / "jobs" / name)


def of_table(experiments: Path, runs: Path, records: Path) -> Results:
    planned = read_manifest(manifest(runs, "table5", "laptop"))
    kept = read_records(records, "laptop")
    return collect(find_experiment("table5", experiments), "laptop", planned, runs, kept=kept)


def test_reports_without_the_run_folders_are_the_same(runs: Path, tmp_path: Path, report_all: Report) -> None:
    first = report_all("first", runs)
    again = report_all("again", tmp_path / "none", "--also", str(tmp_path / "first/runs.jsonl"))
    assert len([name for name in first if name.endswith(".csv")]) == len(NAMES)
    assert again == first


def test_seeds_of_two_machines_make_one_table(runs: Path, tmp_path: Path, report_all: Report) -> None:
    together = report_all("together", runs)
    other = Path(shutil.copytree(runs, tmp_path / "other"))
    remove_seed(runs, 0)
    remove_seed(other, 1)
    report_all("other_reports", other)
    merged = report_all("merged", runs, "--also", str(tmp_path / "other_reports/runs.jsonl"))
    assert merged == together


def test_own_finished_run_counts_before_a_kept_one(
    experiments: Path, runs: Path, tmp_path: Path, report_all: Report
) -> None:
    report_all("kept", runs)
    records = tmp_path / "kept/runs.jsonl"
    before = next(row.runs for row in of_table(experiments, runs, records).rows if row.runs)
    metrics = json.loads((before[0].folder / "metrics.json").read_text())
    metrics["best"]["val"]["MR-full-mAP"] = 1.25
    (before[0].folder / "metrics.json").write_text(json.dumps(metrics))
    (before[1].folder / "metrics.json").unlink()  # as if it was begun again
    after = next(row.runs for row in of_table(experiments, runs, records).rows if row.runs)
    assert after[0].metrics == metrics
    assert after[1].status == "finished"
    assert after[1].metrics == before[1].metrics


def give_overrides(runs: Path, *overrides: str) -> None:
    """Let all sweeps of a folder of runs have overrides for all their jobs."""
    for path in runs.glob("sweeps/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"overrides": overrides}))


def test_captions_keep_the_overrides_of_a_sweep(runs: Path, tmp_path: Path, report_all: Report) -> None:
    give_overrides(runs, "model.dim=32", "optim.lr=1e-3")
    first = report_all("first", runs)
    assert "All jobs have overrides: model.dim=32, optim.lr=1e-3." in first["table5.md"].decode()
    assert report_all("again", tmp_path / "none", "--also", str(tmp_path / "first/runs.jsonl")) == first


def test_jobs_with_other_overrides_are_not_mixed(
    runs: Path, tmp_path: Path, report_all: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Path(shutil.copytree(runs, tmp_path / "plain"))
    give_overrides(runs, "model.dim=32")
    report_all("narrow", runs)
    report_all("wide", plain)
    narrow, wide = (["--also", str(tmp_path / name / "runs.jsonl")] for name in ("narrow", "wide"))
    for folder, kept, had, expected in (
        (plain, narrow, "model.dim=32", "none"),
        (runs, wide, "none", "model.dim=32"),
        (tmp_path / "none", [*wide, *narrow], "model.dim=32", "none"),
    ):
        assert main(["report", "table5", "--runs", str(folder), *kept]) == 2
        message = f"had these overrides: {had}; the other jobs have: {expected}; report them apart"
        assert message in capsys.readouterr().err


def test_learning_curves_are_kept(experiments: Path, runs: Path, tmp_path: Path, report_all: Report) -> None:
    report_all("kept", runs)
    for row in of_table(experiments, tmp_path / "none", tmp_path / "kept/runs.jsonl").rows:
        if row.runs:
            values, seeds = learning_curve([run.curve() for run in row.runs])
            assert (tuple(values), seeds) == (CURVE, 2)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("scale", "paper", "holds a job of scale 'paper', expected 'laptop'; give --scale paper"),
        ("metrics", {}, "not written by sdst report --all"),
        ("seed", "one", "not written by sdst report --all"),
        ("job", "../../secret", "not written by sdst report --all"),
        ("overrides", [], "not written by sdst report --all"),
        ("curve", ["high"], "not written by sdst report --all"),
        ("features", "none", "not written by sdst report --all"),
        (
            "rows",
            {"table5": [["Somebody", "qvhighlights"]]},
            "holds a job of row 'Somebody', which table5 lacks",
        ),
    ],
)
def test_unusable_records_are_refused(
    runs: Path,
    tmp_path: Path,
    experiments: Path,
    report_all: Report,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: Any,
    expected: str,
) -> None:
    report_all("kept", runs)
    path = tmp_path / "kept/runs.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], json.dumps(json.loads(lines[-1]) | {key: value})]))
    where = ["--experiments", str(experiments), "--runs", str(tmp_path / "none")]
    assert main(["report", "table5", *where, "--also", str(path)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert str(path) in error


def test_a_run_without_run_json_and_csv_log_is_kept(
    experiments: Path, runs: Path, tmp_path: Path, report_all: Report
) -> None:
    for job in (runs / "jobs").iterdir():
        (job / "run.json").unlink()
        shutil.rmtree(job / "csv")
    first = report_all("first", runs)
    assert report_all("again", tmp_path / "none", "--also", str(tmp_path / "first/runs.jsonl")) == first


@pytest.mark.parametrize("others", [["--list"], [".", "."]])
def test_also_is_refused_where_it_has_no_effect(
    others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *others, "--also", "runs.jsonl"]) == 2
    assert "--also needs one experiment or --all" in capsys.readouterr().err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "table5", "--also", "nowhere/runs.jsonl"]) == 2
    assert "nowhere/runs.jsonl: cannot be read" in capsys.readouterr().err
