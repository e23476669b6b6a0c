"""The compact table of the repository's own runs: our numbers alone, the best in bold."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from helpers.committed_runs import write_committed_runs
from sdst.cli import main
from sdst.reports.results import Results, collect
from sdst.sweeps.manifest import manifest, read_manifest
from sdst.sweeps.tables import find_experiment

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    runs = tmp_path_factory.mktemp("committed")
    return runs, write_committed_runs(runs)


def results(runs: Path, name: str) -> Results:
    return collect(
        find_experiment(name, EXPERIMENTS), "laptop", read_manifest(manifest(runs, name, "laptop")), runs
    )


def printed(runs: Path, name: str, capsys: pytest.CaptureFixture[str], kind: str = "compact") -> str:
    capsys.readouterr()
    assert main(["report", name, "--runs", str(runs), "--format", kind]) == 0
    return capsys.readouterr().out


def table(text: str) -> dict[str, list[str]]:
    """Cells by the label of their row; the header has the label ""."""
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| --")]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in row.split("|")[1:-1]] for row in rows)}


def test_every_number_is_the_mean_of_the_runs_and_the_best_is_bold(
    committed: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, jobs = committed
    shown = table(printed(runs, "table5", capsys))
    assert list(shown) == [
        "", "Stand. CA", "Def. CA", "Def. CA +PureInit", "Def. CA +MixedInit", "SDST (Ours)",
    ]  # fmt: skip
    column = shown[""].index("MR mAP")
    means = {}
    for label in list(shown)[1:]:
        found = [
            job["metrics"]["best"]["val"]["MR-full-mAP"]
            for job in jobs
            if [label.replace("SDST (Ours)", "Ours"), "qvhighlights"] in job["rows"].get("table5", [])
        ]
        assert len(found) >= 2
        means[label] = statistics.mean(found)
        text = shown[label][column].replace("**", "")
        assert text == f"{means[label]:.2f} ± {statistics.stdev(found):.2f}"
    best = max(means, key=means.__getitem__)
    assert [label for label in shown if "**" in shown[label][column]] == [best]


def test_caption_has_commit_split_seeds_and_scale_and_nothing_of_the_paper(
    committed: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, jobs = committed
    text = printed(runs, "table5", capsys)
    caption = text.splitlines()[0]
    seeds = sorted({job["seed"] for job in jobs if "table5" in job["rows"]})
    over = f"over seeds {', '.join(map(str, seeds))};"
    for fact in ("Tab. 5", "split val", "laptop scale, data world", over):
        assert fact in caption
    commits = {job["git"]["commit"][:10] for job in jobs if "table5" in job["rows"]}
    assert all(commit in caption for commit in commits)
    assert not any(job["job"] in text for job in jobs)
    assert not re.search("[†‡]|paper|difference", text)


def test_columns_are_aligned_for_a_terminal(
    committed: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in printed(committed[0], "tableH", capsys).splitlines() if line.startswith("|")]
    places = [[match.start() for match in re.finditer(r"\|", line)] for line in lines]
    assert len(lines) == 2 + 6  # header, rule, methods
    assert all(place == places[0] for place in places)


def test_facts_of_a_run_have_no_needless_deviation_and_little_memory_is_best(
    committed: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, jobs = committed
    text = printed(runs, "tableH", capsys)
    shown = table(text)
    assert "0.00" not in text
    for label, cells in list(shown.items())[1:]:
        row = [label.replace("SDST (Ours)", "Ours"), "qvhighlights"]
        sizes = {job["parameters"]["total"] for job in jobs if row in job["rows"].get("tableH", [])}
        assert {f"{size / 1e6:.2f}" for size in sizes} == {cells[0]}
    memory = {label: cells[1] for label, cells in list(shown.items())[1:]}
    least = min(memory, key=lambda label: float(memory[label].strip("*").split("*")[0].split(" ")[0]))
    assert [label for label, cell in memory.items() if "**" in cell] == [least]


def test_tables_without_our_numbers_say_why(
    committed: tuple[Path, list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "this table has no runs" in printed(committed[0], "tableO", capsys)
    assert "no finished runs at laptop scale" in printed(tmp_path, "table5", capsys)


def test_simulated_features_and_unfinished_rows_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = write_committed_runs(tmp_path)
    one, *others = [job for job in jobs if ["Def. CA", "qvhighlights"] in job["rows"].get("table5", [])]
    metrics = tmp_path / "jobs" / one["job"] / "metrics.json"
    metrics.write_text(json.dumps(json.loads(metrics.read_text()) | {"simulated": True}))
    assert "SIMULATED features" in printed(tmp_path, "table5", capsys)
    metrics.unlink()
    text = printed(tmp_path, "table5", capsys)
    assert f"Def. CA [1 of {1 + len(others)} runs not finished]" in table(text)
    assert "SIMULATED" not in text


def test_the_full_table_tells_our_runs_from_the_papers_method(
    committed: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, jobs = committed
    text = printed(runs, "tableH", capsys, "md")
    assert "| SDST (Ours) | ours, n = 3 |" in text
    (size,) = {
        job["parameters"]["total"]
        for job in jobs
        if ["Ours", "qvhighlights"] in job["rows"].get("tableH", [])
    }
    assert f"| {size / 1e6:.2f} |" in text


@pytest.mark.parametrize(("name", "shared"), [("tableK", False), ("tableL", True)])
def test_panels_share_their_range_or_say_why_not(
    committed: tuple[Path, list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    shared: bool,
) -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    from sdst.reports.plots import plot

    figures: list[Any] = []
    monkeypatch.setattr(
        figure_module.Figure, "savefig", lambda figure, path, **_: (figures.append(figure), path.touch())
    )
    assert plot(results(committed[0], name), tmp_path / "p.png")
    ours, paper = figures[0].axes
    assert (ours.get_ylim() == paper.get_ylim()) == shared
    assert ("different mAP ranges" in (figures[0].get_supxlabel() or "")) == (not shared)
