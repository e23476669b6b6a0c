"""An experiment with two runnable rows on the tiny corpus, for tests of sweeps and reports."""

import json
from collections.abc import Sequence
from pathlib import Path

from helpers.corpus import Corpus

ROWS = """\
  - label: Others
    paper: ["1.50", null, "20.4", "4.8M"]
    note: misprinted & odd_
  - label: Standard
    overrides: [attention=standard]
    paper: ["70.77", "42.72", "43.16", "4.1M"]
  - label: Ours
    overrides: []
    paper: ["73.68", "55.60", "44.0", null]
"""


def write_table(folder: Path, corpus: Corpus, name: str = "tableX", rows: str = ROWS) -> Path:
    """Write an experiment on the corpus with one epoch per job; return its folder."""
    folder.mkdir(exist_ok=True)
    overrides = json.dumps([*corpus.overrides, "trainer.max_epochs=1"])
    (folder / f"{name}.yaml").write_text(
        "title: Attention & 100 % of _it_\nsource: Tab. 5\nselection: not stated\nnotes: [a doubt]\n"
        f"scales:\n  paper: {{qvhighlights: {overrides}}}\n  laptop: {{qvhighlights: {overrides}}}\n"
        "columns:\n"
        "  - {title: MR, dataset: qvhighlights, split: val,"
        " metrics: {R1@0.5: MR-full-R1@0.5, mAP: MR-full-mAP}}\n"
        "  - {title: HD, dataset: qvhighlights, split: val, metrics: {HIT@1: HL-min-VeryGood-Hit1}}\n"
        '  - {title: "", dataset: qvhighlights, split: null, metrics: {"#Params": parameters.total}}\n'
        f"rows:\n{rows}"
    )
    return folder


def arguments(folder: Path, runs: Path, *others: str, name: str = "tableX") -> Sequence[str]:
    return [name, "--experiments", str(folder), "--runs", str(runs), *others]
