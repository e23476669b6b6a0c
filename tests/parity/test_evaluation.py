"""The evaluation against the result of the official QVHighlights script on 200 invented queries."""

import json
from pathlib import Path

import pytest

from helpers.shared_data import FROZEN
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions
from sdst.metrics.evaluation import evaluate

FOLDER = FROZEN / "evaluation"
ANNOTATIONS, PREDICTIONS = FOLDER / "annotations.jsonl", FOLDER / "predictions.jsonl"


def in_order(text: str) -> str:
    """A JSON text in one spelling, which keeps the order of keys and every digit."""
    return json.dumps(json.loads(text))


OFFICIAL = in_order((FOLDER / "official_metrics.json").read_text())


def test_all_metrics_have_the_official_values_names_and_order_whatever_the_order_of_rows() -> None:
    annotations = read_annotations(ANNOTATIONS)
    assert len(annotations.records) == 200
    predictions = read_predictions(PREDICTIONS)
    for rows in (predictions, predictions[::-1]):
        assert json.dumps(evaluate(rows, annotations.records)) == OFFICIAL


def test_the_command_prints_and_writes_the_official_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "metrics.json"
    assert main(["evaluate", str(PREDICTIONS), str(ANNOTATIONS), "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert in_order(printed) == in_order(out.read_text()) == OFFICIAL
