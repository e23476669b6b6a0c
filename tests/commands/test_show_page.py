"""The page of ``sdst show`` in headless Chromium: filters, details, playback, and a complete validation split."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.browser import CHROMIUM, Browser
from helpers.corpus import Corpus, make_rows, write_rows
from sdst.cli import main
from sdst.data.annotations import read_annotations
from sdst.data.predictions import read_predictions, write_predictions
from sdst.metrics.error_kinds import error_kinds
from sdst.metrics.moment import top1_iou
from sdst.types import Prediction

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian's package: chromium)"),
]

LISTED = "[...document.querySelectorAll('.sample .query')].map(query => query.textContent)"
NAMELESS = """[...document.querySelectorAll('button, select, input, video, [role=img]')].filter(
    node => !(node.getAttribute('aria-label') || node.closest('label') || node.textContent.trim()))
    .map(node => node.outerHTML)"""
HOSTILE = """</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1">"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def videos(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video file for each vid of the validation split, in VP8, which every Chromium plays."""
    pytest.importorskip("av")
    from helpers.video_files import write_grey_video

    folder = tmp_path_factory.mktemp("videos")
    for record in read_annotations(corpus.paths["val"]).records:
        if not (path := folder / f"{record.vid}.webm").exists():
            times = [index / 5 for index in range(int(5 * record.duration))]
            write_grey_video(path, times, size=(32, 32), codec="libvpx", pix_fmt="yuv420p")
    return folder


@pytest.fixture(scope="module")
def page(finished: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the finished run, with videos."""
    out = tmp_path_factory.mktemp("pages") / "page.html"
    assert main(["show", str(finished), "--out", str(out), "--videos", str(videos)]) == 0
    return out


def choose(browser: Browser, label: str, value: str) -> None:
    """Set the form control whose label starts with the given text."""
    browser.evaluate(f"""(() => {{
        const label = [...document.querySelectorAll('form label')].find(l => l.textContent.startsWith({label!r}));
        const control = label.querySelector('input, select');
        control.value = {json.dumps(value)};
        if (control.value !== {json.dumps(value)}) throw new Error('no such choice');
        control.dispatchEvent(new Event(control.tagName === 'INPUT' ? 'input' : 'change'));
    }})()""")


def shown_kinds(folder: Path, annotations: Path) -> dict[str, tuple[str, ...]]:
    """Query -> error kinds of a run's predictions on val."""
    windows = {p.qid: p.windows for p in read_predictions(folder / "val_submission.jsonl")}
    records = read_annotations(annotations).records
    return {r.query: error_kinds(windows[r.qid], r.windows) for r in records if r.windows is not None}


def test_page_loads_no_other_files_and_lists_every_query(
    browser: Browser, page: Path, corpus: Corpus
) -> None:
    browser.open(page)
    assert browser.errors == []
    assert browser.fetched == [page.as_uri()]
    assert browser.evaluate(LISTED) == [r.query for r in read_annotations(corpus.paths["val"]).records]
    assert browser.evaluate("document.querySelectorAll('figure svg polyline').length") == 4
    assert browser.evaluate(NAMELESS) == []


def test_filters_show_only_matching_queries(
    browser: Browser, page: Path, corpus: Corpus, finished: Path
) -> None:
    records = read_annotations(corpus.paths["val"]).records
    browser.open(page)
    word = records[0].query.split()[1]
    choose(browser, "query", word.upper())
    found = [record.query for record in records if word in record.query]
    assert browser.evaluate(LISTED) == found
    assert browser.evaluate("document.querySelector('[role=status]').textContent").startswith(
        f"{len(found)} of 5"
    )
    choose(browser, "query", "")
    kinds = shown_kinds(finished, corpus.paths["val"])
    for kind in {kind for found in kinds.values() for kind in found}:
        choose(browser, "error type", f"0:{kind}")
        assert browser.evaluate(LISTED) == [record.query for record in records if kind in kinds[record.query]]
    choose(browser, "error type", "")
    lengths = {r.query: (r.windows[:, 1] - r.windows[:, 0]).max() for r in records if r.windows is not None}
    choose(browser, "moment length", "middle")
    assert browser.evaluate(LISTED) == [query for query, length in lengths.items() if length > 10]
    choose(browser, "moment length", "short")
    assert browser.evaluate(LISTED) == [query for query, length in lengths.items() if length <= 10]


def test_moment_can_be_played_with_the_keyboard(browser: Browser, page: Path, corpus: Corpus) -> None:
    record = read_annotations(corpus.paths["val"]).records[0]
    assert record.windows is not None
    start, end = record.windows[0]
    browser.open(page)
    browser.evaluate("document.querySelector('.sample').focus()")
    browser.press("Enter")
    browser.wait("document.querySelectorAll('.thumbnails canvas').length > 0")
    assert browser.evaluate(NAMELESS) == []
    browser.wait("document.querySelector('.detail > video').readyState >= 1")
    browser.evaluate("""document.querySelector('.detail > video').addEventListener(
        'seeked', event => window.reached ??= event.target.currentTime)""")
    browser.evaluate("document.querySelector('.moment.true').focus()")
    browser.press("Enter")
    browser.wait("window.reached !== undefined")
    assert start <= browser.evaluate("window.reached") <= end
    assert (
        browser.evaluate("document.querySelector('.chosen').textContent")
        == f"True moment {start:g}–{end:g} s"
    )
    browser.wait("document.querySelector('.detail > video').paused")
    assert browser.evaluate("document.querySelector('.detail > video').currentTime") >= end - 0.3
    assert browser.errors == []
    assert [url for url in browser.fetched if not url.startswith(("file:", "data:"))] == []


def test_predicted_moment_shows_its_refinement(browser: Browser, page: Path, finished: Path) -> None:
    first = read_predictions(finished / "val_submission.jsonl")[0]
    browser.open(page)
    browser.evaluate("document.querySelector('.sample').click()")
    browser.evaluate("document.querySelectorAll('.moment.run-0')[1].click()")
    assert "prediction 2" in browser.evaluate("document.querySelector('.detail h4').textContent")
    rows = "[...document.querySelectorAll('.references')]"
    labels = browser.evaluate(f"{rows}.map(row => row.getAttribute('aria-label').split(':')[0])")
    assert labels == ["start", "level 1", "level 2"]
    assert browser.evaluate(f"{rows}.map(row => row.querySelectorAll('.point').length)") == [2, 2, 0]
    start, end, score = first.windows[1]
    text = browser.evaluate("document.querySelector('.chosen').textContent")
    assert text.startswith(f"Prediction 2 of finished: {start:g}–{end:g} s, score {score:.2f}, IoU ")
    browser.evaluate("document.querySelector('.sample').click()")
    assert browser.evaluate("document.querySelectorAll('.detail').length") == 0


def test_right_answers_are_marked_and_moments_have_their_times(
    browser: Browser, page: Path, finished: Path, corpus: Corpus
) -> None:
    kinds = shown_kinds(finished, corpus.paths["val"])
    records = read_annotations(corpus.paths["val"]).records
    browser.open(page)
    marks = browser.evaluate(
        "[...document.querySelectorAll('.verdict')].map(v => [v.classList.contains('right'), v.textContent[0]])"
    )
    is_right = ["right" in kinds[record.query] for record in records]
    assert marks == [[right, "✓" if right else "✗"] for right in is_right]
    browser.evaluate("document.querySelector('.sample').click()")
    windows = read_predictions(finished / "val_submission.jsonl")[0].windows[:5]
    times = browser.evaluate("[...document.querySelectorAll('.row.run-0 .times')].map(t => t.textContent)")
    assert times == [f"{start:g}–{end:g} s" for start, end, _ in windows.round(1)]


@pytest.mark.parametrize("width", [360, 1280])
def test_page_is_not_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page)
    browser.resize(width, 800)
    browser.evaluate("document.querySelector('.sample').click()")
    browser.evaluate("document.querySelectorAll('details').forEach(details => (details.open = true))")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_queries_are_shown_as_text(
    browser: Browser, finished: Path, corpus: Corpus, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    rows = [json.loads(line) for line in corpus.paths["val"].read_text().splitlines()]
    annotations = write_rows(tmp_path / "val.jsonl", [{**row, "query": HOSTILE} for row in rows])
    predictions = read_predictions(run / "val_submission.jsonl")
    write_predictions(
        run / "val_submission.jsonl",
        [Prediction(p.qid, p.vid, HOSTILE, p.windows, p.saliency) for p in predictions],
    )
    assert main(["show", str(run), "--annotations", str(annotations)]) == 0
    browser.open(run / "show.html")
    browser.evaluate("document.querySelector('.sample').click()")
    assert browser.evaluate(LISTED) == [HOSTILE] * len(rows)
    assert browser.evaluate("[window.broken, document.images.length, document.scripts.length]") == [
        None,
        0,
        2,
    ]
    assert browser.errors == []


def test_filter_by_which_of_two_runs_is_right(
    browser: Browser, finished: Path, corpus: Corpus, tmp_path: Path
) -> None:
    """The second run predicts exactly the true moments for every other query."""
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    records = {record.qid: record for record in read_annotations(corpus.paths["val"]).records}
    predictions = read_predictions(other / "val_submission.jsonl")
    perfect = [
        Prediction(p.qid, p.vid, p.query, with_score(records[p.qid].windows), p.saliency) if index % 2 else p
        for index, p in enumerate(predictions)
    ]
    write_predictions(other / "val_submission.jsonl", perfect)
    out = tmp_path / "two.html"
    assert main(["show", str(finished), str(other), "--out", str(out)]) == 0
    browser.open(out)
    assert browser.errors == []
    kinds = [shown_kinds(folder, corpus.paths["val"]) for folder in (finished, other)]
    queries = [record.query for record in records.values()]
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        choose(browser, "first prediction", ",".join(str(right).lower() for right in wanted))
        fitting = [query for query in queries if tuple("right" in found[query] for found in kinds) == wanted]
        assert browser.evaluate(LISTED) == fitting
    choose(browser, "first prediction", "")
    choose(browser, "error type", "1:right")
    assert browser.evaluate(LISTED) == [query for query in queries if "right" in kinds[1][query]]
    browser.evaluate("document.querySelector('.sample').click()")
    assert (
        browser.evaluate("document.querySelectorAll('.detail video').length") == 0
    )  # there are no video files
    assert browser.evaluate("document.querySelectorAll('.moment.run-1').length") >= 1


def test_three_runs_are_filtered_and_ordered_by_each(
    browser: Browser, finished: Path, corpus: Corpus, tmp_path: Path
) -> None:
    """The third run predicts exactly the true moments; its name is that of the link to it."""
    best = Path(shutil.copytree(finished, tmp_path / "hash"))
    (tmp_path / "best").symlink_to(best)
    records = {record.qid: record for record in read_annotations(corpus.paths["val"]).records}
    predictions = read_predictions(best / "val_submission.jsonl")
    perfect = [
        Prediction(p.qid, p.vid, p.query, with_score(records[p.qid].windows), p.saliency) for p in predictions
    ]
    write_predictions(best / "val_submission.jsonl", perfect)
    second = Path(shutil.copytree(finished, tmp_path / "second"))
    runs = [str(finished), str(second), str(tmp_path / "best")]
    assert main(["show", *runs, "--out", str(tmp_path / "three.html")]) == 0
    browser.open(tmp_path / "three.html")
    assert browser.errors == []
    kinds = shown_kinds(finished, corpus.paths["val"])
    queries = [record.query for record in records.values()]
    choose(browser, "first prediction", "false,false,true")
    assert browser.evaluate(LISTED) == [query for query in queries if "right" not in kinds[query]]
    choose(browser, "first prediction", "")
    choose(browser, "order", "ahead2")
    iou = {
        p.query: top1_iou([p.windows], [records[p.qid].windows])[0]
        for p in read_predictions(finished / "val_submission.jsonl")
    }
    listed = browser.evaluate(LISTED)
    assert sorted(listed) == sorted(queries)
    leads = [1 - iou[query] for query in listed]
    assert leads == sorted(leads, reverse=True)
    texts = browser.evaluate(
        "[...document.querySelectorAll('.legend, .readout')].map(x => x.textContent).join()"
    )
    assert "best" in texts


def with_score(windows: Any) -> np.ndarray:
    return np.column_stack([windows, np.ones(len(windows))])


def test_large_split_is_listed_in_portions_and_details_are_drawn_on_demand(
    browser: Browser, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    rows = make_rows("val", 1550)
    annotations = write_rows(tmp_path / "val.jsonl", rows)
    windows = np.array([[0, 2 * (i + 1), 1 - i / 10] for i in range(10)], float)
    predictions = [Prediction(r["qid"], r["vid"], r["query"], windows, np.arange(75.0)) for r in rows]
    write_predictions(run / "val_submission.jsonl", predictions)
    assert main(["show", str(run), "--annotations", str(annotations)]) == 0
    browser.open(run / "show.html")
    assert browser.errors == []
    assert browser.evaluate("document.querySelector('[role=status]').textContent") == "1,550 of 1,550 queries"
    assert browser.evaluate("document.querySelectorAll('.sample').length") == 40
    assert browser.evaluate("document.querySelectorAll('.detail').length") == 0
    browser.evaluate("document.querySelector('.more').click()")
    assert browser.evaluate(LISTED) == [row["query"] for row in rows[:80]]
    choose(browser, "query", rows[1549]["query"])
    assert rows[1549]["query"] in browser.evaluate(LISTED)
    assert browser.evaluate("document.querySelector('.more').hidden")
