"""The README shows the numbers that are committed beside the code."""

import csv
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
METRICS = ("MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mAP", "HL-min-VeryGood-mAP")


def row(start: str) -> list[str]:
    """The cells of the README's table row that begins with a text."""
    (cells,) = re.findall(rf"^\| {re.escape(start)}[^|]*\|(.*)\|$", README, flags=re.MULTILINE)
    return [cell.strip() for cell in cells.split("|")]


def test_the_demos_numbers_are_the_committed_ones() -> None:
    demo: Any = json.loads((ROOT / "experiments/results/demo.json").read_text())
    for method, split in (("SDST", "val"), ("SDST", "test"), ("mean moment", "val")):
        name = {"val": "validation", "test": "test"}[split]
        brief = demo[method][split]
        expected = [str(demo["queries"][split]), *(f"{brief[metric]:.1f}" for metric in METRICS)]
        assert row(f"{method}, {name} split") == expected
    assert f"commit {demo['commit'][:7]}" in README


def test_the_numbers_of_table_h_are_the_committed_ones() -> None:
    with (ROOT / "experiments/results/laptop/tableH.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    methods = list(dict.fromkeys(cell["row"] for cell in cells))
    assert (
        f"| | {' | '.join(methods)} |".replace("w/o Tuning", "w/o tuning").replace("Ours", "SDST") in README
    )
    for start, key in {"R1@0.7": METRICS[1], "MR mAP": METRICS[2], "HL mAP": METRICS[3]}.items():
        expected = [
            f"{float(cell['mean']):.1f} ± {float(cell['std']):.1f}" for cell in cells if cell["key"] == key
        ]
        assert row(start) == expected
