"""A short, fixed subset of ``make fuzz``, and arbitrary JSON values in every field of a row."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import run_case
from fuzz_kinds import Kind, make_kinds
from helpers.corpus import Corpus, make_rows, write_rows
from sdst.cli import main

NAMES = ["annotations", "predictions", "features", "checkpoints", "run folders", "experiments", "reports"]
NAMES += ["analysed runs", "journals", "arrays", "archives", "backbone weights", "backbone sizes"]
NAMES += ["targets", "checkpoint targets", "changed annotations", "permuted vids", "video streams"]
CASES = {"checkpoint targets": 20}
"""Number of cases, if six would not reach a partial target."""


@pytest.fixture(scope="module")
def kinds(corpus: Corpus, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return make_kinds(corpus, finished, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", NAMES)
def test_commands_accept_or_refuse_broken_files_in_one_line(
    kinds: dict[str, Kind], tmp_path: Path, name: str
) -> None:
    outcomes = []
    for number in range(CASES.get(name, 6)):
        outcome, details = run_case(kinds[name], name, number, tmp_path)
        assert outcome != "UNEXPECTED", f"case {number}: {details}"
        outcomes.append(outcome)
    assert "refused" in outcomes or name in (
        "arrays",
        "journals",
        "backbone weights",
    )  # these kinds suppress the error or cut the file


def test_run_case_reports_an_unexpected_error(kinds: dict[str, Kind], tmp_path: Path) -> None:
    broken = Kind(kinds["predictions"].originals, lambda path: {}[path], [])
    assert run_case(broken, "broken", 0, tmp_path)[0] == "UNEXPECTED"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda items: st.lists(items, max_size=4) | st.dictionaries(st.text(), items, max_size=2),
    max_leaves=12,
)
ROW = make_rows("val", 2)
PREDICTED = [
    {"qid": row["qid"], "vid": row["vid"], "query": row["query"], "pred_relevant_windows": [[0, 4, 0.5]]}
    | {"pred_saliency_scores": [0.1, 0.2, 0.3, 0.4]}
    for row in ROW
]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted({*ROW[0], *PREDICTED[0]})), value=VALUES)
def test_evaluate_accepts_or_refuses_any_field_value_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str, value: Any
) -> None:
    annotations, predictions = tmp_path / "a.jsonl", tmp_path / "p.jsonl"
    for path, rows in ((annotations, ROW), (predictions, PREDICTED)):
        write_rows(path, [rows[0] | {field: value} if field in rows[0] else rows[0], rows[1]])
    capsys.readouterr()
    status = main(["evaluate", str(predictions), str(annotations), "--json"])
    captured = capsys.readouterr()
    if status == 0:
        numbers = json.loads(captured.out)["brief"].values()
        assert all(number is None or 0 <= number <= 100 for number in numbers)
    else:
        assert status == 2
        (line,) = captured.err.splitlines()
        assert line.isprintable()
