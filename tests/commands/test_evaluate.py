"""``sdst evaluate``: its output, its errors, and its start without importing torch."""

import json
import subprocess
import sys

import pytest

from helpers.shared_data import SHARED, needs_shared
from sdst.cli import main

TRUE = {"qid": 7, "query": "a dog runs", "vid": "abc", "duration": 20, "relevant_windows": [[0, 10]]}
RATED = TRUE | {"relevant_clip_ids": [1], "saliency_scores": [[4, 4, 4]]}
PREDICTED = {"qid": 7, "pred_relevant_windows": [[0, 6, 0.9]], "pred_saliency_scores": [0.5, 1]}


@pytest.fixture
def files(tmp_path):
    """Function that writes rows (or raw text) to both files and returns their names."""

    def write(predictions, annotations):
        names = []
        for name, rows in {"pred.jsonl": predictions, "true.jsonl": annotations}.items():
            text = rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows))
            (tmp_path / name).write_text(text)
            names.append(str(tmp_path / name))
        return names

    return write


def test_evaluate_prints_only_json_and_writes_the_same_to_the_file(files, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    assert main(["evaluate", *files([PREDICTED], [RATED]), "--json", "--out", str(out)]) == 0
    stdout = capsys.readouterr().out
    result = json.loads(stdout)
    assert result == json.loads(out.read_text())
    assert result["brief"]["MR-full-R1@0.5"] == 100
    assert result["brief"]["MR-full-R1@0.7"] == 0
    assert result["brief"]["HL-min-VeryGood-mAP"] == 100
    assert "NaN" not in stdout


def test_table_lists_every_metric_and_marks_those_without_value(files, capsys):
    assert main(["evaluate", *files([PREDICTED], [TRUE])]) == 0
    cells = [line.split("│")[1:3] for line in capsys.readouterr().out.splitlines() if "│" in line]
    table = {name.strip(): value.strip() for name, value in cells}
    assert table == {
        "MR-full-R1@0.3": "100.00",
        "MR-full-R1@0.5": "100.00",
        "MR-full-R1@0.7": "0.00",
        "MR-full-mIoU": "60.00",
        "MR-full-mAP": "30.00",  # a hit at three of the ten thresholds
        "MR-full-mAP@0.5": "100.00",
        "MR-full-mAP@0.75": "0.00",
        "MR-long-mAP": "none",
        "MR-middle-mAP": "none",
        "MR-short-mAP": "30.00",
    }


def test_dataset_option_overrides_the_protocol_detected_from_annotations(files, capsys):
    names = files([PREDICTED], [RATED])
    assert main(["evaluate", *names, "--json", "--dataset", "tacos"]) == 0
    brief = json.loads(capsys.readouterr().out)["brief"]
    assert brief["MR-full-mIoU"] == 60
    assert not any(name.startswith("HL") for name in brief)


def test_evaluate_logs_repairs_and_omitted_metrics(files, caplog):
    predicted = {key: PREDICTED[key] for key in ("qid", "pred_relevant_windows")}
    assert main(["evaluate", *files([predicted], [RATED | {"relevant_windows": [[10, 0]]}]), "--json"]) == 0
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "reversed windows swapped: 1",
        "no prediction has saliency, so highlight metrics are left out",
    ]


def test_moments_that_nobody_can_hit_stay_in_the_truth_as_it_stands(files, capsys, caplog):
    rows = [
        TRUE,
        TRUE | {"qid": 8, "relevant_windows": [[4, 4]]},
        TRUE | {"qid": 9, "relevant_windows": [[0, 10], [20, 22]]},
        TRUE | {"qid": 10, "relevant_windows": [[24, 30]]},
    ]
    answers = [PREDICTED | {"qid": row["qid"], "pred_relevant_windows": [[0, 10, 1]]} for row in rows]
    answers[1] |= {"pred_relevant_windows": [[4, 4, 1]]}  # 0 / 0 in the official evaluation
    answers[3] |= {"pred_relevant_windows": [[24, 30, 1]]}  # behind the end, as the truth is
    assert main(["evaluate", *files(answers, rows), "--json"]) == 0
    brief = json.loads(capsys.readouterr().out)["brief"]
    assert brief["MR-full-R1@0.5"] == 75
    assert brief["MR-full-mAP"] == (100 + 0 + 50 + 100) / 4
    (message,) = [record.getMessage() for record in caplog.records]
    assert "windows without length, which no prediction can hit: 1 (first at" in message
    assert "windows outside their video, kept as they stand: 2 (first at" in message
    assert "qid 9, 10)" in message


def test_unsorted_windows_get_the_official_numbers_and_a_warning(files, capsys, caplog):
    windows = [[12, 20, 0.1], [0, 10, 0.9]]
    rows = [PREDICTED | {"qid": qid, "pred_relevant_windows": windows} for qid in (8, 9)]
    rows.append(PREDICTED | {"qid": 7, "pred_relevant_windows": windows[::-1]})
    names = files(rows, [TRUE | {"qid": qid} for qid in (7, 8, 9)])
    assert main(["evaluate", *names, "--json"]) == 0
    brief = json.loads(capsys.readouterr().out)["brief"]
    assert brief["MR-full-R1@0.5"] == pytest.approx(33.33)  # the first listed window
    assert brief["MR-full-mAP"] == 100  # ranked by score
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "rows not sorted by score: 2 (first qid 8)" in warning


def test_predictions_with_permuted_vids_are_told(files, caplog):
    vids = {"a": "b", "b": "a", "c": "c", "d": None}
    rows = [PREDICTED | {"qid": qid, "vid": vid} for qid, vid in vids.items()]
    assert main(["evaluate", *files(rows, [TRUE | {"qid": vid, "vid": vid} for vid in vids]), "--json"]) == 0
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "rows that name another 'vid' than the annotation of their qid: 2 (first qid 'a')" in warning


@pytest.mark.parametrize(
    ("predictions", "annotations", "options", "message"),
    [
        ([PREDICTED, PREDICTED | {"qid": 8}], [TRUE], [], "1 predictions have no annotation (qid 8)"),
        ([PREDICTED], [TRUE | {"qid": "7"}], [], "(qid '7'), 1 predictions have no annotation (qid 7)"),
        ([PREDICTED], [TRUE | {"relevant_windows": None}], [], "qid 7 has no 'relevant_windows'"),
        ('{"qid": 7, "pred_rel', [TRUE], [], "pred.jsonl:1: not a JSON object"),
        ([PREDICTED], [TRUE, TRUE], [], "true.jsonl:2: qid 7 is also on line 1"),
        ([PREDICTED | {"pred_relevant_windows": [[6, 0, 1]]}], [TRUE], [], "pred.jsonl:1: qid 7: window"),
        ("", [TRUE], [], "pred.jsonl: the file has no rows"),
        ([PREDICTED], [TRUE], ["--dataset", "anet"], "invalid choice: 'anet'"),
        ([PREDICTED], [TRUE], ["--dataset", "tvsum"], "qid 7 has no 'label'"),
        ([PREDICTED], [TRUE], ["--domain", "BK"], "true.jsonl: has no row of domain 'BK'"),
        ([PREDICTED], [TRUE], ["--out", "/nonexistent/m.json"], "/nonexistent/m.json: cannot be written"),
        ([PREDICTED], [TRUE], ["absent.jsonl"], "unrecognized arguments: absent.jsonl"),
    ],
)
def test_evaluate_refuses_invalid_input_in_one_line_with_status_2(
    files, capsys, predictions, annotations, options, message
):
    assert main(["evaluate", *files(predictions, annotations), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sdst: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_evaluate_prints_help_and_refuses_missing_files(capsys, tmp_path):
    assert main(["evaluate", str(tmp_path / "no.jsonl"), str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--help"])
    assert stop.value.code == 0
    assert "PRED.jsonl" in capsys.readouterr().out


@pytest.mark.processes
def test_evaluate_imports_neither_torch_nor_scipy(files):
    script = (
        "import sys; from sdst.cli import main; status = main(sys.argv[1:]); "
        "sys.exit(status or ('torch' in sys.modules and 3) or ('scipy' in sys.modules and 4))"
    )
    command = [sys.executable, "-c", script, "evaluate", *files([PREDICTED], [RATED])]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


@needs_shared
def test_evaluate_reproduces_the_official_sample_metrics(capsys):
    names = ["evaluation/sample_val_preds.jsonl", "annotations/qvhighlights/highlight_val_release.jsonl"]
    assert main(["evaluate", *[str(SHARED / name) for name in names], "--json"]) == 0
    expected = (SHARED / "evaluation/sample_val_preds_metrics_raw.json").read_text()
    assert capsys.readouterr().out.strip() == expected.strip()
