"""``sdst show`` without a browser: the data in the page, and the escaping of a run's texts."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.corpus import Corpus, make_rows, write_rows
from sdst.cli import main
from sdst.config.checks import resolve_auto_options
from sdst.config.compose import compose
from sdst.config.schema import Decoding
from sdst.data.annotations import read_annotations
from sdst.data.store import FeatureStore
from sdst.inference.stored import run_model
from sdst.metrics.error_kinds import CONSIDERED
from sdst.models.decoding import decode, fit_windows, raw_moments
from sdst.show.embedded import embed
from sdst.show.page import SCRIPTS, config_table, metric_table, render
from sdst.show.runs import FinishedRun, read_run, selected_step
from sdst.show.traces import find_queries, trace_moments
from sdst.spans import cw_to_se
from sdst.training import checkpoint
from sdst.training.curves import Curve, read_curves
from sdst.training.run_folder import BEST

CSS = Path(__file__).parents[2] / "src" / "sdst" / "show" / "page.css"


class Scripts(HTMLParser):
    """Contents of a page's script elements, and names of all elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.contents: list[str] = []
        self.names: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag == "script":
            self.contents.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.contents[-1] += data


def page_data(page: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Scripts(page.read_text()).contents[0])
    return data


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def run_of(folder: Path) -> FinishedRun:
    return read_run(folder, "a run")


def curves_of(run: FinishedRun) -> dict[str, Curve]:
    return read_curves(run.folder, run.metrics["epochs"])


def test_page_has_predictions_and_annotations_of_every_query(
    finished: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["show", str(finished), "--split", "test", "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    data = page_data(page)
    rows = [json.loads(line) for line in corpus.paths["test"].read_text().splitlines()]
    predicted = {
        row["qid"]: row
        for row in map(json.loads, (finished / "test_submission.jsonl").read_text().splitlines())
    }
    assert [sample["qid"] for sample in data["samples"]] == [row["qid"] for row in rows]
    for sample, row in zip(data["samples"], rows, strict=True):
        assert sample["query"] == row["query"]
        assert sample["moments"] == row["relevant_windows"]
        scored = {clip: scores for clip, scores in enumerate(sample["annotators"]) if any(scores)}
        assert scored == dict(zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True))
        (answer,) = sample["answers"]
        wanted = predicted[row["qid"]]
        for shown, window in zip(
            answer["windows"], wanted["pred_relevant_windows"][:CONSIDERED], strict=True
        ):
            assert shown == pytest.approx(window, abs=1e-4)
        assert answer["saliency"] == pytest.approx(wanted["pred_saliency_scores"], abs=1e-3)
    assert "Videos are not shown" in data["notes"][0]


def test_traces_equal_references_and_offsets_of_the_model(finished: Path, corpus: Corpus) -> None:
    """Loops over samples and moment queries; without NMS, so that moments are in the order of the raw scores."""
    run = run_of(finished)
    records = read_annotations(corpus.paths["val"]).records
    model, config, recipe = checkpoint.load(finished / BEST)
    store = FeatureStore(
        corpus.features, video_layers=recipe["video_layers"], text_layers=recipe["text_layers"]
    )
    decoding = Decoding(**{**config["decode"], "nms": "none"})
    predictions, outputs = {}, {}
    for record in records:
        ((batch, output),) = run_model(model, [record], store, 2.0, with_offsets=True)
        (predictions[record.qid],) = decode(output, batch, decoding)
        outputs[record.qid] = output
    traces = trace_moments(run, records, predictions, count=3)
    for record in records:
        output = outputs[record.qid]
        duration = torch.tensor([record.duration])
        windows, scores = raw_moments(output, duration, decoding)
        windows = fit_windows(windows, duration, decoding)
        order = scores[0].argsort(descending=True, stable=True)
        for rank, trace in enumerate(traces[record.qid]):
            query = order[rank]
            assert trace is not None
            assert predictions[record.qid].windows[rank, :2] == pytest.approx(windows[0, query])
            assert output.offsets is not None
            references = [output.initial_references[0, query], *output.references[0, :, query]]
            for reference, shown in zip(references, trace.references, strict=True):
                assert shown == pytest.approx((cw_to_se(reference) * record.duration).tolist(), abs=0.02)
            for level, points in enumerate(trace.points):
                centre, width = references[level].tolist()
                for point, offset in zip(points, output.offsets[0, level, query].tolist(), strict=True):
                    assert point == pytest.approx((centre + offset * width / 2) * record.duration, abs=0.02)


def test_moment_queries_with_equal_bounds_are_matched_in_order_of_score() -> None:
    windows = torch.tensor([[0.0, 4.0], [2.0, 6.0], [0.0, 4.0], [8.0, 9.0]])
    scores = torch.tensor([0.2, 0.9, 0.7, -torch.inf])
    wanted = torch.tensor([[2.0, 6.0], [0.0, 4.0], [0.0, 4.02], [0.0, 4.0], [8.0, 9.0]])
    assert find_queries(windows, scores, wanted) == [1, 2, 0, None, None]


def test_page_without_features_has_a_note_and_no_traces(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(re.sub(r"features: .*\.h5", "features: gone.h5", text))
    assert main(["show", str(copy)]) == 0
    data = page_data(copy / "show.html")
    assert any("gone.h5" in note for note in data["notes"])
    assert {sample["answers"][0]["traces"] for sample in data["samples"]} == {None}


def test_video_links_are_relative_to_the_page(finished: Path, corpus: Corpus, tmp_path: Path) -> None:
    videos = tmp_path / "my videos"
    videos.mkdir()
    (videos / "val0-a#b.mp4").touch()
    page = tmp_path / "pages" / "page.html"
    page.parent.mkdir()
    options = ["--out", str(page), "--videos", str(videos), "--video-name", "{vid}-a#b"]
    assert main(["show", str(finished), *options]) == 0
    data = page_data(page)
    assert data["videos"] == {"val0": "../my%20videos/val0-a%23b.mp4"}
    vids = {record.vid for record in read_annotations(corpus.paths["val"]).records}
    assert f"{len(vids) - 1} of {len(vids)} videos" in data["notes"][0]


def test_curves_of_a_resumed_run_are_joined_and_exclude_the_final_evaluation(copy: Path) -> None:
    once = curves_of(run_of(copy))
    folder = copy / "csv"
    log = folder / "version_0" / "metrics.csv"
    header, *rows = log.read_text().splitlines()
    epoch, step, loss = (header.split(",").index(name) for name in ("epoch", "step", "train/loss"))
    rows = [row.split(",") for row in rows]
    wanted = {int(row[step]) + 1: float(row[loss]) for row in rows if row[loss]}
    assert once["train/loss"].steps == sorted(wanted)
    assert once["train/loss"].values == pytest.approx([wanted[s] for s in sorted(wanted)], rel=1e-4)
    assert len(once["val/loss"].steps) == 2
    assert not any(name.startswith("test/") for name in once)

    # The first start stopped in the second epoch, and the second start repeated that epoch.
    (folder / "version_10").mkdir()
    again = [row for row in rows if int(row[epoch]) >= 1]
    for row in rows:
        if int(row[epoch]) == 1 and row[loss]:
            row[loss] = "77.0"
    log.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    for row in again:
        if row[loss]:
            row[loss] = "5.5"
    (folder / "version_10" / "metrics.csv").write_text("\n".join([header, *map(",".join, again)]) + "\n")
    joined = curves_of(run_of(copy))
    second = [step for step in once["train/loss"].steps if step > once["val/loss"].steps[0]]
    assert joined["train/loss"].steps == once["train/loss"].steps
    assert joined["train/loss"].values[-len(second) :] == [5.5] * len(second)


def test_selected_step_is_the_last_of_the_best_epoch(finished: Path) -> None:
    run = run_of(finished)
    curves = curves_of(run)
    epoch = run.metrics["selected"]["epoch"]
    assert selected_step(run, curves) == curves["val/loss"].steps[epoch]
    assert selected_step(run, {}) is None


def test_only_overridden_options_differ_from_the_default(train: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = train(tmp_path / "run", "loss.weights.act=0.25", "model.attention.sampling=[l,r]")
    header, rows = config_table([run_of(run_dir)])
    assert header == ["option", "default", "a run"]
    differing = {key: (default, value) for key, default, value in rows if default != value}
    assert differing["loss.weights.act"] == ("1.0", "0.25")
    assert differing["model.attention.sampling"] == ('["l", "c", "r"]', '["l", "r"]')
    assert "decode.score" not in differing  # "auto" and the value it resolves to count as equal
    assert not any(key.startswith(("paths", "run_dir", "data.features", "logger")) for key, _, _ in rows)
    assert {"seed", "optim.weight_decay", "data.pooling"} <= {key for key, _, _ in rows} - differing.keys()


def test_page_says_if_no_option_differs(finished: Path) -> None:
    run = run_of(finished)
    config = compose(["data=qvhighlights"])
    resolve_auto_options(config)
    data: dict[str, Any] = {"split": "val", "notes": [], "compared": 1, "samples": []}
    same = render([FinishedRun(run.folder, run.name, run.metrics, run.facts, config)], data)
    assert "No option differs from the defaults." in same
    assert '<tr class="differs">' not in same
    assert "No option differs" not in render([run], data)


def test_title_of_a_single_run_has_its_parent_folder(finished: Path) -> None:
    page = render([read_run(finished, "run")], {"split": "val", "notes": [], "compared": 1, "samples": []})
    assert f"<title>{finished.parent.name}/run – SDST</title>" in page


def test_two_runs_are_compared_by_metric_and_by_query(finished: Path, copy: Path, tmp_path: Path) -> None:
    metrics = json.loads((copy / "metrics.json").read_text())
    metrics["best"]["val"]["MR-full-mAP"] += 1.5
    metrics["best"]["test"]["MR-full-mAP"] = None
    (copy / "metrics.json").write_text(json.dumps(metrics))
    header, rows = metric_table([run_of(finished), run_of(copy)])
    row = dict(zip(header, next(row for row in rows if row[0] == "MR-full-mAP"), strict=False))
    assert float(row["val: a run"]) == pytest.approx(metrics["best"]["val"]["MR-full-mAP"])
    assert next(row for row in rows if row[0] == "MR-full-mAP")[3] == "+1.50"
    assert next(row for row in rows if row[0] == "MR-full-mAP")[6] == "–"
    assert main(["show", str(finished), str(copy), "--out", str(tmp_path / "two.html")]) == 0
    data = page_data(tmp_path / "two.html")
    assert [run["name"] for run in data["runs"]] == ["finished", "copy"]
    assert all(len(sample["answers"]) == 2 for sample in data["samples"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}/checkpoints"], "no run here"),
        (["{run}", "--split", "train"], "choose --split from val, test"),
        (["{run}", "--annotations", "{other}"], "differ in queries"),
        (["{run}", "--videos", "{run}/none"], "no such folder"),
        (["{run}", "--out", "{run}/none/page.html"], "cannot be written"),
    ],
)
def test_user_error_is_one_line(
    arguments: list[str], message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_rows(tmp_path / "other.jsonl", make_rows("val", 6))
    assert main(["show", *(text.format(run=finished, other=other) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (finished / "show.html").exists()


HOSTILE = st.one_of(
    st.text(),
    st.sampled_from(
        [
            "</script><script>alert(1)</script>",
            "<!--<script>",
            "]]>",
            "${data}",
            "$data",
            '"&lt;',
            "\u2028",
            "\ud800",
        ]
    ),
)


@given(HOSTILE)
def test_embedded_text_cannot_end_the_script_element(text: str) -> None:
    page = f'<script type="application/json">{embed({"query": text})}</script><p>after</p>'
    scripts = Scripts(page)
    assert scripts.names == ["script", "p"]
    assert json.loads(scripts.contents[0]) == {"query": text}
    assert "<" not in embed({"query": text})


def test_texts_of_a_run_are_escaped_in_tables(finished: Path) -> None:
    hostile = '</title><img src=x onerror="alert(1)"> $data'
    run = run_of(finished)
    run = FinishedRun(run.folder, hostile, run.metrics, {**run.facts, "command": [hostile]}, run.config)
    run.config.model.signal = hostile
    scripts = Scripts(render([run], {"split": hostile, "notes": [hostile], "compared": 1, "samples": []}))
    assert "img" not in scripts.names
    assert scripts.names.count("script") == 2
    assert scripts.names.count("title") == 1


def test_scripts_never_parse_html_or_load_urls() -> None:
    for name in SCRIPTS:
        source = (CSS.parent / name).read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://(?!www\.w3\.org)", source
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_sufficient_contrast(scheme: str) -> None:
    """WCAG 2.2: contrast of at least 4.5 for text and 3 for graphics."""
    blocks = re.findall(r":root \{(.*?)\}", CSS.read_text(), flags=re.DOTALL)[:2]
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", blocks[0] + (blocks[1] if scheme == "dark" else "")))

    def contrast(a: str, b: str) -> float:
        light, dark = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for ground in ("page", "card"):
        for text in ("text", "soft", "link", "run-0", "run-1"):
            assert contrast(text, ground) >= 4.5, (text, ground)
    assert contrast("text", "mark") >= 4.5
    for drawn in ("true", "run-0", "run-1"):
        assert contrast(drawn, "track") >= 3, drawn


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
