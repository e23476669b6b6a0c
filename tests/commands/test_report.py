"""``sdst report``: numbers against plain arithmetic on metrics.json, noise marks, formats and pictures."""

import csv
import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from helpers.corpus import Corpus
from helpers.made_up_runs import write_runs
from helpers.sweep_table import arguments, write_table
from sdst.bench import costs, step
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.errors import UserError
from sdst.metrics.evaluation import evaluate
from sdst.reports.noise import QUERIES, SEEDS, marks, query_values
from sdst.reports.overview import duration
from sdst.reports.render import comma_separated, escape_latex
from sdst.reports.results import Results, collect
from sdst.sweeps.manifest import manifest, read_manifest
from sdst.sweeps.tables import find_experiment, list_experiments, read_experiment

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
KEYS = ("MR-full-R1@0.5", "MR-full-mAP", "HL-min-VeryGood-Hit1")


@pytest.fixture(scope="module")
def tables(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("experiments"), corpus)


@pytest.fixture(scope="module")
def swept(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder after a sweep of two rows with three seeds; read only."""
    runs = tmp_path_factory.mktemp("swept")
    assert main(["sweep", *arguments(tables, runs, "--seeds", "0", "1", "2")]) == 0
    return runs


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder as if all tables had been swept; read only."""
    runs = tmp_path_factory.mktemp("made_up")
    write_runs(runs, [read_experiment(path) for path in list_experiments(EXPERIMENTS)])
    return runs


@pytest.fixture
def copied(swept: Path, tmp_path: Path) -> Path:
    """A copy of ``swept`` that a test may change."""
    return Path(shutil.copytree(swept, tmp_path / "copied"))


Report = Callable[..., str]


@pytest.fixture
def report(tables: Path, capsys: pytest.CaptureFixture[str]) -> Report:
    def run(runs: Path, *options: str, name: str = "tableX") -> str:
        capsys.readouterr()
        assert main(["report", *arguments(tables, runs, *options, name=name)]) == 0
        return capsys.readouterr().out

    return run


def results(tables: Path, runs: Path) -> Results:
    planned = read_manifest(manifest(runs, "tableX", "laptop"))
    return collect(find_experiment("tableX", tables), "laptop", planned, runs)


def of_row(runs: Path, row: str, key: str) -> list[float]:
    """Numbers of a row, one per seed."""
    listed = json.loads((runs / "sweeps/tableX-laptop.json").read_text())["jobs"]
    folders = [runs / "jobs" / job["identity"] for job in listed if job["row"] == row]
    return [json.loads((folder / "metrics.json").read_text())["best"]["val"][key] for folder in folders]


def set_values(runs: Path, row: str, key: str, values: list[float]) -> None:
    listed = json.loads((runs / "sweeps/tableX-laptop.json").read_text())["jobs"]
    for job, value in zip([job for job in listed if job["row"] == row], values, strict=True):
        path = runs / "jobs" / job["identity"] / "metrics.json"
        content = json.loads(path.read_text())
        content["best"]["val"][key] = value
        path.write_text(json.dumps(content))


# --- numbers ---


def test_csv_numbers_equal_those_of_the_runs(swept: Path, report: Report) -> None:
    rows = list(csv.DictReader(report(swept, "--format", "csv").splitlines()))
    checked = 0
    for row in rows:
        if row["row"] == "Others" or row["key"] not in KEYS:
            continue
        values = of_row(swept, row["row"], row["key"])
        assert float(row["mean"]) == pytest.approx(sum(values) / 3)
        assert float(row["std"]) == pytest.approx(statistics.stdev(values))
        assert float(row["difference"]) == pytest.approx(sum(values) / 3 - float(row["paper"]))
        assert (row["seeds"], row["dataset"], row["split"]) == ("0 1 2", "qvhighlights", "val")
        checked += 1
    assert checked == 6
    others = [row for row in rows if row["row"] == "Others"]
    assert [row["paper"] for row in others] == ["1.50", "20.4", "4.8M"]
    assert {row["mean"] for row in others} == {""}
    (size,) = [row for row in rows if row["row"] == "Ours" and row["key"] == "parameters.total"]
    listed = json.loads((swept / "sweeps/tableX-laptop.json").read_text())["jobs"]
    ours = next(job["identity"] for job in listed if job["row"] == "Ours")
    facts = json.loads((swept / "jobs" / ours / "run.json").read_text())
    assert float(size["mean"]) == pytest.approx(facts["parameters"]["total"] / 1e6)


def test_markdown_has_our_numbers_the_papers_and_the_difference(swept: Path, report: Report) -> None:
    text = report(swept)
    values = of_row(swept, "Standard", "MR-full-R1@0.5")
    mean, std = sum(values) / 3, statistics.stdev(values)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert lines[0] == ["", "", "MR R1@0.5", "MR mAP", "HD HIT@1", "#Params"]
    index = next(i for i, line in enumerate(lines) if line[0] == "Standard")
    assert lines[index][1] == "ours, n = 3"
    assert lines[index][2].rstrip(SEEDS + QUERIES) == f"{mean:.2f} ± {std:.2f}"
    assert lines[index + 1] == ["", "paper", "70.77", "42.72", "43.16", "4.1M"]
    assert lines[index + 2][1] == "difference"
    assert lines[index + 2][2] == f"{mean - 70.77:+.2f}".replace("-", "\N{MINUS SIGN}")
    assert ["Others", "paper", "1.50", "–", "20.4", "4.8M"] in lines


def test_caption_and_notes_say_how_numbers_were_obtained(swept: Path, report: Report) -> None:
    text = report(swept)
    caption, _, rest = text.partition("|  |  |")
    commit = json.loads(next(swept.glob("jobs/*/run.json")).read_text())["git"]
    for part in (
        "Attention & 100 % of",
        "(Tab. 5)",
        "Split: val.",
        "best epoch by val/MR-full-mAP; in the paper: not stated",
        "Scale: laptop",
        "seeds 0, 1, 2",
        "SIMULATED",
        "not comparable",
    ):
        assert part in caption
    if commit is not None:
        assert f"Commit: {commit['commit'][:10]}" in caption
    for part in ("misprinted", "a doubt", *(path.name for path in swept.glob("jobs/*/"))):
        assert part in rest


# --- what is missing ---


def test_incomplete_rows_are_marked(tables: Path, copied: Path, report: Report) -> None:
    assert "[not run]" not in report(copied)
    path = copied / "sweeps/tableX-laptop.json"
    content = json.loads(path.read_text())
    standard = [job for job in content["jobs"] if job["row"] == "Standard"]
    content["jobs"].remove(standard[2])
    path.write_text(json.dumps(content))
    assert "Standard [2 of 3 seeds] | ours, n = 2" in report(copied)
    run = copied / "jobs" / standard[1]["identity"]
    (run / "metrics.json").unlink()
    assert "Standard [1 of 2 runs not finished] | ours, n = 1" in report(copied)
    (run / "failed.txt").write_text("no luck\n")
    text = report(copied)
    assert "Standard [1 of 2 runs failed] | ours, n = 1" in text
    assert "- Standard, qvhighlights, seed 1 failed: no luck" in text
    for job in standard[:2]:
        job["identity"] = None
    path.write_text(json.dumps(content))
    assert "Standard [not implemented] | ours |" in report(copied)
    path.unlink()
    text = report(copied)
    assert "Standard [not run] | ours | – | – | – | –" in text
    assert "no runs yet" in text


def test_row_of_another_scale_is_marked_and_not_swept(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "  - {label: Deep, overrides: [levels.count=9], only: paper, note: too deep, paper: ["
    deep += "'1.0', null, null, null]}"
    folder = write_table(tmp_path / "experiments", corpus, rows=f"{deep}\n")
    assert main(["sweep", *arguments(folder, tmp_path)]) == 2
    assert "no rows to train at laptop scale" in capsys.readouterr().err
    assert main(["report", *arguments(folder, tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| Deep [not at laptop scale] | ours | – | – | – | – |\n|  | paper | 1.0 |" in text
    assert "- Deep: too deep" in text
    assert main(["report", *arguments(folder, tmp_path, "--scale", "paper")]) == 0
    assert "Deep [not run]" in capsys.readouterr().out


def test_list_has_every_experiment_with_its_state(
    swept: Path, tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--list", "--experiments", str(tables), "--runs", str(swept)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "tableX\tTab. 5\tAttention & 100 % of _it_\tpaper: not run\trehearsal: not run\tlaptop: 6 finished, "
    )
    assert main(["report", "--list", "--runs", str(swept)]) == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"table1", "table5", "tableP", "figure4"} <= set(names)
    assert all(read_experiment(path).name in names for path in list_experiments(EXPERIMENTS))


def test_list_has_cost_and_number_of_shared_jobs(made_up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_table = {
        path.name.partition("-")[0]: {job["identity"] for job in json.loads(path.read_text())["jobs"]}
        for path in made_up.glob("sweeps/*.json")
    }
    assert main(["report", "--list", "--runs", str(made_up)]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert by_table.keys() == {line[0] for line in lines if "published" not in line[-1]}
    for line in lines:
        if (jobs := by_table.get(line[0])) is not None:
            others = {name for table, names in by_table.items() if table != line[0] for name in names}
            # Each job took a minute.
            minutes = f"{len(jobs)} min" if len(jobs) > 1 else "60 s"
            shared = "1 job" if len(jobs & others) == 1 else f"{len(jobs & others)} jobs"
            assert line[-1] == f"laptop: {len(jobs)} finished, {minutes}, {shared} shared"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (9000, "2.5 h")]
)
def test_durations_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_of_the_selection_split_are_called_optimistic(
    made_up: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "- Ours on val are optimistic: the best of 12 epochs was selected on val itself."
    for name, wanted in (("table5", True), ("table1", True), ("table2", False)):  # val; test and val; test
        assert main(["report", name, "--runs", str(made_up)]) == 0
        assert (note in capsys.readouterr().out) == wanted


# --- noise ---


@pytest.mark.parametrize("dataset", ["qvhighlights", "tacos", "world"])
def test_mean_contribution_of_queries_equals_the_metric(swept: Path, corpus: Corpus, dataset: str) -> None:
    records = read_annotations(corpus.paths["val"]).records
    run = next(swept.glob("jobs/*/"))
    predictions = read_predictions(run / "val_submission.jsonl")[::-1]
    brief = evaluate(predictions, records, dataset)["brief"]
    for key, value in brief.items():
        values = query_values(key, predictions, records, dataset)
        if value is None:
            assert values is None
        else:
            assert values is not None
            assert 100 * values.mean() == pytest.approx(value, abs=0.0051)
    assert query_values("parameters.total", predictions, records, dataset) is None


@pytest.mark.parametrize(
    ("values", "same"), [([50.0, 52.0, 48.0], True), ([30.0, 30.1, 29.9], False), ([51.0, 50.0, 52.0], True)]
)
def test_difference_not_significant_across_seeds_is_marked(
    tables: Path, copied: Path, values: list[float], same: bool
) -> None:
    ours = [51.0, 50.0, 52.0]
    set_values(copied, "Ours", "MR-full-mAP", ours)
    set_values(copied, "Standard", "MR-full-mAP", values)
    if values != ours:
        assert (stats.ttest_rel(values, ours).pvalue >= 0.05) == same
    assert (SEEDS in marks(results(tables, copied)).get(("Standard", 1), "")) == same


def submit(runs: Path, row: str, corpus: Corpus, right: bool) -> None:
    """Make a row's runs predict each query's first moment, or a moment that does not overlap it."""
    listed = json.loads((runs / "sweeps/tableX-laptop.json").read_text())["jobs"]
    lines = []
    for record in read_annotations(corpus.paths["val"]).records:
        assert record.windows is not None
        window = [*record.windows[0].tolist(), 1.0] if right else [1000.0, 1001.0, 1.0]
        lines.append(json.dumps({"qid": record.qid, "pred_relevant_windows": [window]}))
    for job in listed:
        if job["row"] == row:
            (runs / "jobs" / job["identity"] / "val_submission.jsonl").write_text("\n".join(lines))


def test_difference_not_significant_across_queries_is_marked(
    tables: Path, copied: Path, corpus: Corpus
) -> None:
    submit(copied, "Ours", corpus, right=True)
    for right in (True, False):
        submit(copied, "Standard", corpus, right=right)
        assert (QUERIES in marks(results(tables, copied)).get(("Standard", 1), "")) == right
    run = next(run for run in results(tables, copied).runs)
    (run.folder / "val_submission.jsonl").write_text("")
    assert QUERIES not in marks(results(tables, copied)).get(("Standard", 1), "")


# --- formats ---


def test_csv_quotes_special_characters_in_labels(tables: Path, tmp_path: Path, swept: Path) -> None:
    path = tmp_path / "tableX.yaml"
    path.write_text((tables / "tableX.yaml").read_text().replace("label: Others", "label: 'a,b \"c\"'"))
    table = read_experiment(path)
    rows = list(csv.DictReader(comma_separated(collect(table, "laptop", [], swept), {}).splitlines()))
    assert rows[0]["row"] == 'a,b "c"'


def test_latex_escapes_text_and_has_one_cell_per_column(swept: Path, report: Report) -> None:
    assert escape_latex(r"50 % & a_b {x} \y #1 $ ~ ^ ± †") == (
        r"50 \% \& a\_b \{x\} \textbackslash{}y \#1 \$ \textasciitilde{} \textasciicircum{} $\pm$ \dag{}"
    )
    text = report(swept, "--format", "latex")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 1 + 1 + 3 + 3
    assert {line.replace(r"\&", "").count("&") for line in rows} == {5}
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.isascii()


ODD = " ".join(map(chr, range(33, 127))) + "±≥×σγ†‡–\N{MINUS SIGN}→é"


def latex_of_all(runs: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    found = {}
    for path in list_experiments(EXPERIMENTS):
        assert main(["report", path.stem, "--runs", str(runs), "--format", "latex"]) == 0
        found[path.stem] = capsys.readouterr().out
    return found


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_of_every_experiment_compiles(
    made_up: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preamble = r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx}\begin{document}"
    body = "\n\\clearpage\n".join([escape_latex(ODD), *latex_of_all(made_up, capsys).values()])
    (tmp_path / "all.tex").write_text(f"{preamble}\n{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    for complaint in ("Overfull", "Float too large"):
        assert complaint not in done.stdout


def test_latex_of_every_experiment_is_well_formed(made_up: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in latex_of_all(made_up, capsys).items():
        assert text.isascii(), name
        plain = re.sub(r"\\[{}&\\]", "", text)
        assert plain.count("{") == plain.count("}"), name
        assert re.findall(r"\\begin{(\w+\*?)}", plain) == re.findall(r"\\end{(\w+\*?)}", plain)[::-1], name
        columns = read_experiment(EXPERIMENTS / f"{name}.yaml").columns
        for line in text.splitlines():
            spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line)]
            if line.endswith(r"\\"):
                cells = len(re.findall(r"(?<!\\)&", line)) + 1
                assert cells + sum(spans) - len(spans) == len(columns) + 2, (name, line)
            if rules := re.findall(r"\\cmidrule\(lr\){(\d+)-(\d+)}", line):
                assert all(3 <= int(first) <= int(last) <= len(columns) + 2 for first, last in rules)
                assert all(int(a[1]) < int(b[0]) for a, b in pairwise(rules))


def test_report_all_writes_files_and_an_index(swept: Path, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    where = ["--experiments", str(tables), "--runs", str(swept), "--out", str(out)]
    assert main(["report", "--all", *where]) == 0
    assert {path.name for path in out.iterdir()} == {
        "index.md",
        "runs.jsonl",
        *(f"tableX.{e}" for e in ("md", "csv", "tex")),
    }
    index = (out / "index.md").read_text()
    assert "| [tableX](tableX.md) | Attention" in index
    assert "| 6 finished | " in index
    seconds = [json.loads(path.read_text())["fit_seconds"] for path in swept.glob("jobs/*/metrics.json")]
    assert f"Training all 6 finished jobs took {sum(seconds):.0f} s." in index
    records = {
        record["job"]: record for record in map(json.loads, (out / "runs.jsonl").read_text().splitlines())
    }
    assert records.keys() == {path.parent.name for path in swept.glob("jobs/*/metrics.json")}
    for name, record in records.items():
        assert record["metrics"] == json.loads((swept / "jobs" / name / "metrics.json").read_text())
        assert record["git"] == json.loads((swept / "jobs" / name / "run.json").read_text())["git"]
    planned = json.loads((swept / "sweeps/tableX-laptop.json").read_text())["jobs"]
    assert {(job["row"], job["seed"], job["identity"]) for job in planned if job["identity"]} == {
        (label, record["seed"], name)
        for name, record in records.items()
        for label, _ in record["rows"]["tableX"]
    }


def test_report_all_succeeds_without_a_checkpoint(
    made_up: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("scikit_posthocs")
    assert main(["report", "--all", "--runs", str(made_up), "--out", str(tmp_path)]) == 0
    assert "figure4: row 'Ours' is not drawn" in caplog.text
    index = (tmp_path / "index.md").read_text()
    for path in list_experiments(EXPERIMENTS):
        assert f"[{path.stem}]({path.stem}.md)" in index
    assert re.findall(r"!\[[^]]+\]\((\w+)\.png\)", index) == [
        "figure4",
        "tableB",
        "tableH",
        "tableK",
        "tableL",
    ]
    for path in tmp_path.glob("*.md"):
        for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            assert (tmp_path / link).is_file()


def test_report_of_table_p_recomputes_the_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scikit_posthocs")
    assert main(["report", "tableP", "--runs", str(tmp_path)]) == 0
    assert "Friedman" in capsys.readouterr().out


def test_table_d_has_the_measurements_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "measure", costs._measure)  # no process for each
    experiments = tmp_path / "experiments"
    shutil.copytree(EXPERIMENTS, experiments, ignore=shutil.ignore_patterns("results"))
    bench = ["--batch", "2", "--clips", "4", "--tokens", "3", "--queries", "2", "--levels", "1"]
    bench += ["--video-dim", "6", "--text-dim", "5", "--rounds", "1", "--against", "model=r2_tuning"]
    report = ["report", "tableD", "--runs", str(tmp_path), "--experiments", str(experiments)]
    assert main(report) == 0
    assert "A training step on this machine" not in capsys.readouterr().out
    assert main(["bench", "step", *bench, "--out", str(experiments / "results/bench")]) == 0
    measured = json.loads((experiments / "results/bench/step.json").read_text())["rows"]
    capsys.readouterr()
    assert main(report) == 0
    lines = capsys.readouterr().out.partition("## A training step on this machine")[2].splitlines()
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
    assert [row[0] for row in found] == ["default", "model=r2_tuning"]  # without the row of ratios
    for row, (name, parameters, _, _, speed, spread) in zip(measured, found, strict=False):
        assert name == row["configuration"]
        assert float(parameters) == pytest.approx(row["parameters"] / 1e6, abs=0.005)
        assert float(speed) == pytest.approx(1 / row["seconds"]["median"], abs=0.005)
        slowest, fastest = map(float, spread.split(" to "))
        assert slowest <= float(speed) <= fastest
    (experiments / "results/bench/step.json").write_text("[]")
    assert main(report) == 2
    assert "step.json: not written by sdst bench step" in capsys.readouterr().err


# --- plots ---


def plotted(corpus: Corpus, tmp_path: Path, name: str, rows: str) -> Path:
    """Sweep and report rows under the name of an experiment that has a picture; returns the picture."""
    folder = write_table(tmp_path / "experiments", corpus, name=name, rows=rows)
    assert main(["sweep", *arguments(folder, tmp_path, name=name)]) == 0
    assert main(["report", *arguments(folder, tmp_path, "--out", str(tmp_path / "out"), name=name)]) == 0
    assert f"({name}.png)" in (tmp_path / "out" / f"{name}.md").read_text()
    return tmp_path / "out" / f"{name}.png"


PAPER = 'paper: ["70.77", "42.72", "43.16", null]'
PLOTS: dict[str, str] = {
    "tableH": f"  - {{label: Ours, overrides: [], {PAPER}}}\n",
    "tableK": f"  - {{label: 'K = 1, intermediate', overrides: [levels.count=1], {PAPER}}}\n"
    f"  - {{label: 'K = 2, last', overrides: [levels.source=last], {PAPER}}}\n",
    "tableL": f"  - {{label: Ours, overrides: [], {PAPER}}}\n",
    "figure4": f"  - {{label: Ours, overrides: [], {PAPER}}}\n"
    f"  - {{label: Standard, overrides: [attention=standard], {PAPER}}}\n",
}


@pytest.mark.parametrize("name", PLOTS)
def test_picture_is_written(corpus: Corpus, tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    assert plotted(corpus, tmp_path, name, PLOTS[name]).stat().st_size > 10_000


def test_the_learning_curve_is_the_mean_of_the_finished_runs(swept: Path, tables: Path) -> None:
    from sdst.reports.plots import learning_curve

    (runs,) = (row.runs for row in results(tables, swept).rows if row.row.label == "Ours")
    logged = []
    for run in runs:
        rows = list(csv.DictReader((run.folder / "csv/version_0/metrics.csv").read_text().splitlines()))
        values = [float(row["val/MR-full-mAP"]) for row in rows if row["val/MR-full-mAP"]]
        logged.append(values[: run.metrics["epochs"]])
    mean, seeds = learning_curve([*(run.curve() for run in runs), None])
    assert seeds == len(runs) > 1
    np.testing.assert_allclose(mean, np.mean(logged, axis=0), rtol=1e-4)
    assert learning_curve([replace(run, status="missing").curve() for run in runs])[1] == 0


def test_mean_offsets_equal_the_offsets_of_the_attention(
    swept: Path, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdst.models.attention import DeformableAttention
    from sdst.reports.plots import mean_offsets

    found = {row.row.label: row for row in results(tables, swept).rows}
    assert mean_offsets(found["Standard"].runs[0]) is None
    seen: list[np.ndarray[Any, Any]] = []
    forward = DeformableAttention.forward

    def watched(*given: Any) -> Any:
        update, offsets = forward(*given)
        seen.append(offsets.double().numpy())  # offsets of one level, because each call refines one level
        return update, offsets

    monkeypatch.setattr(DeformableAttention, "forward", watched)
    offsets = mean_offsets(found["Ours"].runs[0])
    assert offsets is not None
    for level in (0, 1):
        every = np.concatenate([part.reshape(-1, 2) for part in seen[level::2]])
        np.testing.assert_allclose(offsets[0][level], every.mean(axis=0))
        np.testing.assert_allclose(offsets[1][level], every.std(axis=0))


def test_user_errors(copied: Path, tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, named in ((["--all"], "--out"), ([], "no experiment given"), (["table99"], "table99")):
        assert main(["report", *given]) == 2
        assert named in capsys.readouterr().err
    next(copied.glob("jobs/*/metrics.json")).write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json: damaged"):
        results(tables, copied)


def test_a_run_that_lacks_what_every_run_writes_is_named(
    copied: Path, tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((copied / "jobs").glob("*/metrics.json"))
    path.write_text('{"best": {"val": {"MR-full-mAP": 5.0}}}')
    assert main(["report", *arguments(tables, copied)]) == 2
    assert f"{path}: damaged, 'dataset' is missing or of another type" in capsys.readouterr().err
