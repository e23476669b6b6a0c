"""``sdst show`` of many runs: what the page has, links, notes, and the table in a browser."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import CHROMIUM, Browser
from helpers.corpus import Corpus
from helpers.listed_runs import write_run
from sdst.cli import main

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian's package: chromium)")


class Page(HTMLParser):
    """The data in a page, and the cells of its tables by section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tables: dict[str, list[list[str]]] = {}
        self.notes: list[str] = []
        self._section, self._cell, self._note = "", False, False
        self.data: dict[str, Any] = {}
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            self._section = given["id"] or ""
        if tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1].append("")
        if tag == "p" and given.get("class") == "note":
            self.notes.append("")
        self._cell, self._note = tag in ("td", "th"), tag == "p" and given.get("class") == "note"

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script" and not self.data:
            self.data = json.loads(data)
        elif self._cell and self.cdata_elem is None:
            self.tables[self._section][-1][-1] += data
        elif self._note:
            self.notes[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._note = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 finished runs, two models of 30 seeds, and one that failed."""
    runs = tmp_path_factory.mktemp("collection") / "runs"
    for number in range(60):
        model, seed = ("sdst", "lst")[number % 2], number // 2
        values = (float(number * 17 % 61), float(number * 7 % 60), 50.0)
        write_run(runs / f"{number:02}", model=model, seed=seed, values=values)
    failed = write_run(runs / "failed", seed=99, values=None)
    (failed / "failed.txt").write_text("<img src=x onerror=alert(1)>\n")
    (runs / "07" / "show.html").write_text("the page of a run")
    return runs


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    assert main(["show", str(folder)]) == 0
    return folder / "index.html"


def test_page_has_every_run_with_its_values(page: Path, folder: Path) -> None:
    found = Page(page)
    columns, runs = found.data["columns"], found.data["runs"]
    wanted = "run|state|val mAP|test mAP|model|seed|val R1@0.5|val HL Hit1|changed|MB"
    assert "|".join(columns) == wanted
    assert [run["cells"][0][0] for run in runs] == sorted(
        path.name for path in folder.iterdir() if path.is_dir()
    )
    for number, run in enumerate(runs[:60]):
        cells = dict(zip(columns, (cell[0] for cell in run["cells"]), strict=True))
        assert cells["val mAP"] == f"{number * 7 % 60:.2f}"
        assert cells["test mAP"] == f"{number * 7 % 60 - 1:.2f}"
        assert (cells["seed"], cells["state"]) == (str(number // 2), "finished")
        assert run["link"] == ("07/show.html" if number == 7 else None)
    assert runs[60]["reason"] == "<img src=x onerror=alert(1)>"
    assert "<img" not in found.text
    assert len({run["colour"] for run in runs}) == 2  # one for each model


def test_groups_are_means_over_seeds(page: Path) -> None:
    header, *rows = Page(page).tables["seeds"]
    assert [row[:2] for row in rows] == [["sdst", "30"], ["lst", "30"]]
    for parity, row in enumerate(rows):
        values = [number * 7 % 60 for number in range(parity, 60, 2)]
        mean = sum(values) / 30
        deviation = (sum((value - mean) ** 2 for value in values) / 29) ** 0.5
        assert row[header.index("val mAP")] == f"{mean:.2f} ± {deviation:.2f}"


def test_wins_of_too_many_runs_are_not_read(page: Path) -> None:
    found = Page(page)
    assert "wins" not in found.tables
    assert any("60 finished runs, more than 40" in note for note in found.notes)


def test_more_runs_than_colours_give_the_page_of_many(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main(["show", *(str(folder / f"{number:02}") for number in range(9)), "--out", str(out)]) == 0
    assert len(Page(out).data["runs"]) == 9


def test_runs_of_a_folder_are_compared_by_query(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy wins and loses nothing; a run on other queries is named in one line."""
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        shutil.copytree(finished, runs / name)
    other = Path(shutil.copytree(finished, runs / "c"))
    rows = [json.loads(line) for line in (other / "val_submission.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(row | {"query": "something else"}) + "\n" for row in rows)
    (other / "val_submission.jsonl").write_text(text)
    assert main(["show", str(runs)]) == 0
    assert capsys.readouterr().out == f"{runs / 'index.html'}\n"
    found = Page(runs / "index.html")
    assert found.tables["wins"][1:] == [["b", "5", "0", "0", "5", "0", "0", "+0.00"]]
    assert found.notes[-1] == "Not compared by query with a, because no query on val is shared: c."


def test_runs_with_other_queries_are_compared_by_metrics_and_curves(
    finished: Path, tmp_path: Path, corpus: Corpus
) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    (other / "val_submission.jsonl").unlink()
    third = Path(shutil.copytree(finished, tmp_path / "third"))
    out = tmp_path / "page.html"
    assert main(["show", str(finished), str(other), str(third), "--out", str(out)]) == 0
    found = Page(out)
    assert [run["name"] for run in found.data["runs"]] == ["finished", "third", "other"]
    assert found.data["compared"] == 2
    assert all(len(sample["answers"]) == 2 for sample in found.data["samples"])
    assert any(note.startswith("Compared by metrics and curves only") for note in found.notes)
    header, *rows = found.tables["metrics"]
    assert header == [
        "%",
        *(f"{split}: {name}" for split in ("val", "test") for name in ("finished", "third", "other")),
    ]
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/00/csv"], "no run here"),
        (["{folder}", "--videos", "{folder}"], "--videos needs at most 8 run folders"),
        (["{folder}", "--out", "{folder}/none/page.html"], "cannot be written"),
    ],
)
def test_user_error_is_one_line(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", *(text.format(folder=folder) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


NAMES = "[...document.querySelectorAll('#list tbody th')].map(cell => cell.textContent)"


def sort(browser: Browser, column: str) -> None:
    browser.evaluate(
        f"[...document.querySelectorAll('.sort')].find(b => b.textContent === {column!r}).click()"
    )


@needs_browser
@pytest.mark.browser
def test_table_is_sorted_filtered_and_listed_in_portions(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.errors == []
    assert browser.fetched == [page.as_uri()]
    assert browser.evaluate("document.querySelector('[role=status]').textContent") == "61 of 61 runs"
    assert len(browser.evaluate(NAMES)) == 50
    browser.evaluate("document.querySelector('.more').click()")
    assert len(browser.evaluate(NAMES)) == 61
    by_value = sorted(range(60), key=lambda number: -(number * 7 % 60))
    sort(browser, "val mAP")
    assert browser.evaluate(NAMES) == [f"{number:02}" for number in by_value[:50]]
    sort(browser, "val mAP")
    assert browser.evaluate(NAMES) == [f"{number:02}" for number in by_value[:9:-1]]
    assert browser.evaluate("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"
    browser.evaluate("""(() => {
        const label = [...document.querySelectorAll('form label')].find(l => l.textContent.startsWith('model'));
        const select = label.querySelector('select');
        select.value = '=lst';
        select.dispatchEvent(new Event('change'));
    })()""")
    odd = [f"{number:02}" for number in by_value[::-1] if number % 2]
    assert browser.evaluate(NAMES) == odd
    assert (
        browser.evaluate(
            "document.querySelector('#charts polyline').parentNode.querySelectorAll('polyline').length"
        )
        == 30
    )
    assert browser.evaluate("document.images.length") == 0


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_page_is_not_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page)
    browser.resize(width, 800)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    cell = "document.querySelector('#list tbody td:nth-last-child(3)').getBoundingClientRect()"
    if width == 360:  # every cell is in view: a run is a card
        assert browser.evaluate(f"{cell}.right") <= width
