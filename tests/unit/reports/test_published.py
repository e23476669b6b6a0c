"""The files in experiments/ have exactly the numbers of the paper's tables, digit for digit."""

import re
from itertools import groupby
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import sdst
from helpers.composed import composed
from helpers.shared_data import SHARED
from sdst.metrics.evaluation import PROTOCOLS
from sdst.sweeps.tables import RUN_FACTS, list_experiments, read_experiment

EXPERIMENTS = Path(sdst.__file__).parents[2] / "experiments"
PAPER = SHARED.parent / "PAPER.txt"
needs_paper = pytest.mark.skipif(not PAPER.is_file(), reason=f"the paper's text not found at {PAPER}")

FIRST_LINES = {  # in the order of the text, which lacks the captions
    "1": "Method | test | val | #Params",
    "2": "Method | Charades-ST | TACoS",
    "3": "Pool strat. |",
    "4": "Levels |",
    "5": "Att. strat. | MR",
    "6": "Type of features |",
    "7": "CA | SA | RDSA | FFN |",
    "A": "Pipeline component |",
    "B": "Method | MR-mAP | HD Very Good",
    "C": "Method | Charades-ST | TACoS",
    "D": "# Params (M) |",
    "E": "MR | HD |",
    "F": "Perm. # | MR",
    "G": "Perm # |",
    "H": "Method | #Params | Memory",
    "I": "R1@0.5 | R1@0.7 | mIOU",
    "J": "Shared |",
    "K": "K | Interm? |",
    "L": "Att. strat. | mAP short",
    "M": "Sampling points | CNN",
    "N": "Mod. permutation |",
    "O": "Method | QVHighlights(test)",
    "P": "Comparison w.r.t. SDST |",
}
NO_RESULTS = {"A", "G"}  # hyperparameters and the loss weights of Tab. F, tested separately below
RESULTS = [name for name in FIRST_LINES if name not in NO_RESULTS]

DASHES = ("–", "-")
A_NUMBER = re.compile(r"\d+(\.\d+)?( ?M| ± \d+\.\d+| \(\+\d+\.\d+\))?")


@pytest.fixture(scope="module")
def tables() -> dict[str, list[list[str]]]:
    """Cells of each row of each table, including header rows and empty cells."""
    found: list[list[str]] = []
    lines = PAPER.read_text(encoding="utf-8").splitlines()
    for is_table, group in groupby(lines, lambda line: "|" in line and not re.match(r"\(\d+\) \|", line)):
        if is_table:
            found.append([])
            for line in group:
                if set(line) <= set(
                    "-|"
                ):  # the line under a header: all but the header belong to the table before
                    header = found[-1].pop()
                    if not found[-1]:
                        found.pop()
                    found.append([header])
                else:
                    found[-1].append(line)
    assert len(found) == len(FIRST_LINES)
    for (name, start), table in zip(FIRST_LINES.items(), found, strict=True):
        assert table[0].startswith(start), name
    return {
        name: [[cell.strip() for cell in line.split("|")] for line in table]
        for name, table in zip(FIRST_LINES, found, strict=True)
    }


def is_number(cell: str) -> bool:
    return A_NUMBER.fullmatch(cell) is not None


def parts(name: str, rows: list[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Header rows and rows of numbers; in the text, Tab. B lacks its numbers but has its methods."""
    if name == "B":
        return rows[:1], rows[1:]
    headers = [row for row in rows if not any(map(is_number, row))]
    assert headers == rows[: len(headers)]
    return headers, rows[len(headers) :]


def printed_numbers(name: str, row: list[str]) -> list[str | None]:
    """Numbers and dashes of a row, without those in its label."""
    numbers = [None if cell in DASHES else cell for cell in row if cell in DASHES or is_number(cell)]
    return numbers[1:] if name == "K" or (name == "F" and row[0].isdigit()) else numbers


@needs_paper
@pytest.mark.parametrize("name", RESULTS)
def test_numbers_equal_the_papers(tables: dict[str, list[list[str]]], name: str) -> None:
    table = read_experiment(EXPERIMENTS / f"table{name}.yaml")
    _, rows = parts(name, tables[name])
    expected = [printed_numbers(name, row) for row in rows]
    if name == "B":
        assert expected == [[]] * 8
        expected = [[None] * 5] * 8
    if name == "D":  # two rows end in an empty cell
        assert [len(row) for row in expected] == [3, 3, 3, 3, 2, 2, 3, 3, 3]
        expected = [[*row, None][:3] for row in expected]
    if name == "E":  # its second reading gives the numbers of act and align to video and layer
        expected += expected[3:5]
    assert [list(row.paper) for row in table.rows] == expected


@needs_paper
def test_every_table_of_the_paper_has_a_file(tables: dict[str, list[list[str]]]) -> None:
    files = {path.stem for path in list_experiments(EXPERIMENTS)}
    assert files == {f"table{name}" for name in RESULTS} | {"figure4"}
    assert not any(row.paper for row in read_experiment(EXPERIMENTS / "figure4.yaml").rows)


@needs_paper
@pytest.mark.parametrize("name", RESULTS)
def test_headers_equal_the_papers(tables: dict[str, list[list[str]]], name: str) -> None:
    columns = read_experiment(EXPERIMENTS / f"table{name}.yaml").columns
    headers, _ = parts(name, tables[name])
    last = [cell for cell in headers[-1] if cell]
    if name == "B":  # its second header row is missing from the text
        assert last == ["Method", "MR-mAP", "HD Very Good"]
        assert [column.title for column in columns] == ["MR-mAP"] * 3 + ["HD Very Good"] * 2
        return
    if name == "L":
        last = last[1:]  # the header of the labels
    if name == "P":
        last = last[1:-1]  # the last column has ticks and no numbers
    ours = [column.header for column in columns]
    if name in ("1", "J"):  # the header of the size spans all header rows
        assert ours.pop() in headers[0]
    assert ours == last
    spanning = {cell for row in headers[:-1] for cell in row}
    for column in columns:  # each title consists of the headers above it
        words = column.title
        for cell in sorted(spanning - {""}, key=len, reverse=True):
            words = words.replace(cell, "")
        if name != "I":  # its row of data sets is missing from the text
            assert not words.strip()


@needs_paper
@pytest.mark.parametrize("name", [name for name in RESULTS if name not in ("4", "7", "E")])  # not in the text
def test_labels_equal_the_papers(tables: dict[str, list[list[str]]], name: str) -> None:
    _, rows = parts(name, tables[name])
    expected = [re.sub(r"\s*\[\d+\]", "", row[0]) for row in rows]
    if name == "J":
        assert expected == ["✓", "71.23"]
        expected = ["shared", "not shared"]
    if name == "K":
        expected = [f"K = {row[0]}, {'intermediate' if '✓' in row else 'last'}" for row in rows]
    if name == "M":
        expected = [
            f"{rows[index - index % 2][0]}, {'CNN' if '✓' in row else 'no CNN'}"
            for index, row in enumerate(rows)
        ]
    assert [row.label for row in read_experiment(EXPERIMENTS / f"table{name}.yaml").rows] == expected


@needs_paper
@pytest.mark.parametrize(("name", "ticks"), [("7", [3, 3, 3, 3, 4]), ("E", [4, 4, 4, 4, 4, 5])])
def test_rows_without_labels_have_as_many_ticks_as_the_papers(
    tables: dict[str, list[list[str]]], name: str, ticks: list[int]
) -> None:
    _, rows = parts(name, tables[name])
    assert [row.count("✓") for row in rows] == ticks
    listed = read_experiment(EXPERIMENTS / f"table{name}.yaml").rows
    *less, ours = listed[: len(rows)]
    assert ours.overrides == ()
    assert all(row.overrides for row in less)
    assert len({row.overrides for row in listed}) == len(listed)


WEIGHTS = ("cls", "l1", "sal", "video", "layer", "iou", "act")  # our reading: Tab. G's headers are missing


@needs_paper
def test_loss_weights_of_table_f_equal_table_g(tables: dict[str, list[list[str]]]) -> None:
    _, *rows, chosen = [[cell for cell in row if cell] for row in tables["G"]]
    perturbed = read_experiment(EXPERIMENTS / "tableF.yaml").rows[:-2]
    for (label, *weights), row in zip(rows, perturbed, strict=True):
        assert row.label == label
        assert composed(*(row.overrides or ())).loss.weights == dict(
            zip(WEIGHTS, map(float, weights), strict=True)
        )
    assert chosen[0] == "Chosen"
    assert composed().loss.weights == dict(zip(WEIGHTS, map(float, chosen[1:]), strict=True))


OPTIONS = {
    ("General config", "Dropout"): "model.dropout",
    ("General config", "K"): "levels.count",
    ("General config", "Hidden dimension"): "model.dim",
    ("General config", "Droppath"): "model.drop_path",
    ("General config", "FFN ratio"): "model.ffn_ratio",
    ("Sparse module", "Deformable sampling points"): "model.attention.num_points",
    ("Actionness head", "Roi size"): "model.roi_bins",
    ("Optimization", "Learning Rate"): "optim.lr",
    ("Optimization", "Weight Decay"): "optim.weight_decay",
    ("LR Schedule", "Decay rate"): "optim.decay_epochs",
    ("Warmup strategy", "N. iterations"): "optim.warmup_steps",
    ("Warmup strategy", "Ratio"): "optim.warmup_ratio",
    ("Gradient clipping", "Max norm"): "trainer.gradient_clip_val",
}
OPTIONS_OF_DATASETS = {
    "Batch size": "data.batch_size",
    "FPS": "data.clip_seconds",
    "Min video len": "data.min_duration",
    "Epochs": "trainer.max_epochs",
    "Num. queries": "model.num_queries",
    "Learning rate": "optim.lr",
    "Learning rate schedule": "optim.decay_epochs",
}
DATASETS = {"QVHighlights": "qvhighlights", "Charades-STA": "charades", "TACoS": "tacos"}
NOT_OPTIONS = {  # the model has no dropouts of 0, and depths are fixed in its code
    ("General config", "Attention dropout"),
    ("General config", "FFN dropout"),
    ("General config", "Attention output dropout"),
    ("General config", "FFN output dropout"),
    ("CLS head", "Depth"),
    ("Regression head", "Depth"),
    ("Actionness head", "Depth"),
    ("Actionness head", "Roi scale"),
}


@needs_paper
def test_hyperparameters_of_table_a_equal_the_configuration(tables: dict[str, list[list[str]]]) -> None:
    configs = {name: composed(f"data={data}") for name, data in DATASETS.items()}
    seen = set()
    section = ""
    for row in tables["A"][1:]:
        *sections, field, value = [cell for cell in row if cell]
        section = sections[-1] if sections else section
        number = re.search(r"\d+(\.\d+)?(e-\d+)?", value)
        if number is None:
            continue
        seen.add((section, field))
        if section in DATASETS:
            given = OmegaConf.select(configs[section], OPTIONS_OF_DATASETS[field])
            assert float(number[0]) == (1 / given if field == "FPS" else given), (section, field)
        elif (section, field) not in NOT_OPTIONS:
            given = OmegaConf.select(configs["QVHighlights"], OPTIONS[section, field])
            assert float(number[0]) == given, (section, field)
    rows_of_datasets = {(name, field) for name, field in seen if name in DATASETS}
    assert seen == OPTIONS.keys() | NOT_OPTIONS | rows_of_datasets
    assert len(rows_of_datasets) == 3 * 5 + 2


@pytest.mark.parametrize("path", list_experiments(EXPERIMENTS), ids=lambda path: path.stem)
def test_every_column_key_is_a_metric_of_its_data_set(path: Path) -> None:
    for column in read_experiment(path).columns:
        if column.key is None or column.key in RUN_FACTS:
            assert column.split is None or path.stem == "tableO"
            continue
        assert column.split is not None
        protocol = PROTOCOLS[column.dataset]
        possible = {f"MR-full-R1@{threshold}" for threshold in protocol.brief_recalls}
        possible |= {f"MR-{group}-mAP" for group in ("full", "short", "middle", "long")}
        possible |= {"MR-full-mAP@0.5", "MR-full-mAP@0.75"}
        possible |= {"MR-full-mIoU"} if protocol.mean_iou else set()
        possible |= {"HL-min-VeryGood-mAP", "HL-min-VeryGood-Hit1"} if protocol.highlights else set()
        assert column.key in possible


MISPRINT = ("tableF", "mAP@0.7")  # should be mAP@0.75


@pytest.mark.parametrize("path", list_experiments(EXPERIMENTS), ids=lambda path: path.stem)
def test_column_headers_and_keys_agree(path: Path) -> None:
    for column in read_experiment(path).columns:
        if column.key is None or column.key in RUN_FACTS:
            continue
        header = "mAP@0.75" if (path.stem, column.header) == MISPRINT else column.header
        threshold = re.search(r"@0\.\d+$", header)
        kind = f"{column.title} {header}"
        if "HIT@1" in kind:
            assert column.key == "HL-min-VeryGood-Hit1"
        elif re.search(r"\bHD\b", column.title):
            assert column.key == "HL-min-VeryGood-mAP"
        elif "miou" in kind.lower():
            assert column.key == "MR-full-mIoU"
        elif "mAP" in kind:
            length = re.search("short|middle|long", header)
            assert (
                column.key == f"MR-{length[0] if length else 'full'}-mAP{threshold[0] if threshold else ''}"
            )
        else:
            assert threshold is not None
            assert re.search(r"\bR1?\b", kind)
            assert column.key == f"MR-full-R1{threshold[0]}"
