"""``sdst serve`` as a running process: answers, protection of files and requests, and the page in headless Chromium."""

import asyncio
import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("starlette") is None:
    pytest.skip("the extra serve is not installed", allow_module_level=True)
pytest.importorskip("av")

from helpers.browser import CHROMIUM, Browser
from helpers.http_client import Answer, post_form, post_json, request
from helpers.shared_data import needs_shared
from sdst.cli import main

pytestmark = pytest.mark.processes

QUERIES = ["dog jumps", "a man sings"]
HOSTILE = "<img src=x onerror='window.top.broken = 1'> {{constructor}} ${1+1} &quot; </script> red balls"
PROGRAM = """
import sys

def log_connections(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1][0] if event == "socket.connect" else arguments[0]
        if address not in ("127.0.0.1", "localhost"):
            sys.stderr.write(f"OTHER MACHINE {address}\\n")

sys.addaudithook(log_connections)
from sdst.cli import main
sys.exit(main())
"""
"""The command, with a line on stderr for each lookup of or connection to another machine."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    uploads: Path
    """Parent of the folder of uploads."""


def start(arguments: list[str], temporary: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the command; returns the process and the address that it prints."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def serve_options(video_run: Any) -> list[str]:
    from helpers.video_run import BACKBONE, BACKBONE_CONFIG

    options = ["--checkpoint", video_run.checkpoint, "--backbone-checkpoint", BACKBONE]
    return [*map(str, [*options, "--backbone-config", BACKBONE_CONFIG, "--vocab", video_run.vocab])]


@pytest.fixture(scope="module")
def server(video_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for videos of at most 1 MiB; after it stops, no files may be left."""
    temporary = tmp_path_factory.mktemp("temporary")
    process, url = start([*serve_options(video_run), "--port", "0", "--max-upload", "1"], temporary)
    try:
        assert url.startswith("http://127.0.0.1:"), process.communicate()
        yield Server(url, temporary)
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert (process.returncode, out) == (0, ""), err
    assert "OTHER MACHINE" not in err
    assert "Traceback" not in err, err
    assert "run there: ssh -L " in err
    assert list(temporary.iterdir()) == []


def ground(server: Server, video: Path, queries: list[str]) -> dict[str, Any]:
    """Upload a video and ask about it."""
    answer = post_form(f"{server.url}ground", (video.name, video.read_bytes()), queries)
    assert answer.status == 200, answer.content
    content: dict[str, Any] = answer.json()
    return content


@needs_shared
def test_answers_equal_those_of_sdst_predict(
    server: Server, video_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    video = video_run.video("b")
    found = ground(server, video, [QUERIES[0], " \n ", f"  {QUERIES[1]} "])
    capsys.readouterr()
    asked = [part for query in QUERIES for part in ("--query", query)]
    assert main(["predict", *serve_options(video_run), "--video", str(video), *asked]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["query"] for answer in found["answers"]] == QUERIES == [row["query"] for row in rows]
    for answer, row in zip(found["answers"], rows, strict=True):
        windows = [[moment[key] for key in ("start", "end", "score")] for moment in answer["moments"]]
        assert len(windows) == len(row["pred_relevant_windows"]) > 0
        for window, wanted in zip(windows, row["pred_relevant_windows"], strict=True):
            assert window == pytest.approx(wanted, abs=1e-3)
        assert answer["saliency"] == pytest.approx(row["pred_saliency_scores"], abs=1e-3)
    assert [answer["unseen_words"] for answer in found["answers"]] == [[], ["a"]]
    assert found["duration"] == pytest.approx(12.0, abs=0.1)
    assert found["name"] == video.name


@needs_shared
def test_later_queries_name_the_video_by_its_id(server: Server, video_run: Any) -> None:
    first = ground(server, video_run.video("a"), [QUERIES[0]])
    again = post_json(f"{server.url}ground", {"video": first["video"], "queries": QUERIES}).json()
    assert again["answers"][0] == first["answers"][0]
    assert again["video"] == first["video"]
    # The features are kept, so only the model runs, in well under the time that encoding took.
    assert again["waited_seconds"] < 0.1
    other = post_form(f"{server.url}ground", None, ["flies"])
    assert (other.status, "expected a form" in other.json()["error"]) == (400, True)
    unseen = post_json(f"{server.url}ground", {"video": first["video"], "queries": ["A dog flies, sings"]})
    assert unseen.json()["answers"][0]["unseen_words"] == ["a", "flies"]


@needs_shared
@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"video": "none", "queries": ["a dog"]}, 404, "no video has the id 'none'; upload it again"),
        ({"video": "{id}", "queries": []}, 400, "expected 1 to 100 queries, got 0; type a sentence"),
        ({"video": "{id}", "queries": [" "]}, 400, "expected 1 to 100 queries, got 0; type a sentence"),
        ({"video": "{id}", "queries": ["dog"] * 101}, 400, "expected 1 to 100 queries, got 101"),
        ({"video": "{id}", "queries": ["dog", "\ud800"]}, 400, "query 1 holds a lone surrogate"),
        ({"video": "{id}", "queries": "dog"}, 400, "expected a form"),
        ({"video": 3, "queries": ["dog"]}, 400, "expected a form"),
        (["dog"], 400, "expected a form"),
        ({"video": "{id}", "queries": ["x" * 2**20]}, 400, "expected at most"),
    ],
)
def test_unusable_questions_are_explained(
    server: Server, known: str, content: Any, status: int, message: str
) -> None:
    if isinstance(content, dict) and content["video"] == "{id}":
        content["video"] = known
    answer = post_json(f"{server.url}ground", content)
    assert answer.status == status
    assert answer.json()["error"].startswith(message)
    assert "\n" not in answer.json()["error"]


@pytest.fixture(scope="module")
def known(server: Server, video_run: Any) -> str:
    """The id of an uploaded video of 12 seconds whose features are known."""
    video: str = ground(server, video_run.video("b"), [QUERIES[0]])["video"]
    return video


@needs_shared
def test_a_moment_is_saved_as_mp4(server: Server, known: str, tmp_path: Path) -> None:
    from sdst.features.video import ClipSpec, VideoReader

    answer = request(f"{server.url}videos/{known}/cut?start=2.0&end=5.5")
    assert (answer.status, answer.headers["content-type"]) == (200, "video/mp4")
    assert answer.headers["content-disposition"] == 'attachment; filename="b_2.0-5.5s.mp4"'
    (tmp_path / "cut.mp4").write_bytes(answer.content)
    reader = VideoReader(tmp_path / "cut.mp4", ClipSpec())
    reader.check()
    assert reader.duration == pytest.approx(3.5, abs=0.6)
    for wrong in ("start=5&end=2", "start=0&end=99", "start=-1&end=2", "start=nan&end=2", "end=2"):
        refused = request(f"{server.url}videos/{known}/cut?{wrong}")
        assert (refused.status, list(refused.json())) == (400, ["error"])
    (folder,) = server.uploads.glob("sdst-serve-*")
    assert list(folder.glob("*.mp4")) == []


@needs_shared
def test_videos_are_sent_in_parts(server: Server, known: str, video_run: Any) -> None:
    content = video_run.video("b").read_bytes()
    address = f"{server.url}videos/{known}/file"
    whole, part = request(address), request(address, headers={"Range": "bytes=10-19"})
    assert (whole.status, whole.content, whole.headers["content-type"]) == (200, content, "video/quicktime")
    assert (part.status, part.content) == (206, content[10:20])
    # An uploaded page must not run as a page of this server.
    assert "script-src 'self'" in whole.headers["content-security-policy"]


@needs_shared
def test_the_model_is_described(server: Server, video_run: Any) -> None:
    described = request(f"{server.url}model").json()
    assert described["name"] == "/".join((video_run.folder / "run").parts[-2:])
    assert described["dataset"] == "qvhighlights"
    assert set(described["examples"]) <= {"dog jumps", "red balls", "a man sings"}
    assert described["max_upload_bytes"] == 2**20


def upload(server: Server, name: str, content: bytes, **headers: str) -> Answer:
    return post_form(f"{server.url}videos", (name, content), [], headers)


@needs_shared
@pytest.mark.parametrize("name", ["../../escaped.mp4", "/escaped.mp4", "..", "a\\..\\escaped.mp4", "x" * 300])
def test_upload_names_cannot_leave_the_upload_folder(server: Server, name: str) -> None:
    assert upload(server, name, name.encode()).status == 201
    assert [entry for entry in server.uploads.rglob("*") if "escaped" in entry.name] == []
    (folder,) = server.uploads.iterdir()
    assert folder.name.startswith("sdst-serve-")


@needs_shared
def test_too_large_videos_are_rejected(server: Server) -> None:
    assert upload(server, "small.mp4", bytes(2**20 - 2**10)).status == 201
    large = upload(server, "large.mp4", bytes(2**20 + 2**10))
    assert large.status == 413
    message = "large.mp4: larger than 1 MiB; cut it, or restart sdst serve with a larger --max-upload"
    assert large.json() == {"error": message}
    huge = request(f"{server.url}videos", "POST", b"", {"Content-Length": str(2**33)})
    assert huge.status == 413


@needs_shared
def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    (folder,) = server.uploads.glob("sdst-serve-*")
    before = set(folder.iterdir())
    port = int(server.url.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "POST /videos HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        body = '--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\nhalf'
        connection.sendall((head + body).encode())
    assert request(f"{server.url}model").status == 200
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            OSError(errno.ENOSPC, ""),
            507,
            "the video: cannot be written (No space left on device); free some space and go on",
        ),
        (RuntimeError("no\nmemory"), 500, "RuntimeError: no memory; see the messages of sdst serve"),
    ],
)
def test_unexpected_errors_are_explained_in_one_line(error: Exception, status: int, message: str) -> None:
    from sdst.serve.app import _explain

    answer = asyncio.run(_explain(None, error))  # type: ignore[arg-type]
    assert answer.status_code == status
    assert json.loads(answer.body) == {"error": message}


@needs_shared
def test_only_uploads_are_served(server: Server, video_run: Any) -> None:
    for path in (video_run.video("b"), "%2e%2e%2f%2e%2e%2fetc%2fpasswd"):
        for end in ("", "/file", "/cut?start=0&end=1"):
            assert request(f"{server.url}videos/{path}{end}").status == 404
    # The text of a form field is an id, never a path.
    answer = post_json(f"{server.url}ground", {"video": str(video_run.video("b")), "queries": ["dog"]})
    assert answer.status == 404


@needs_shared
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),
        ({"Origin": "{own}"}, 201),
        ({"Origin": "https://foreign.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "foreign.example"}, 403),
        ({"Host": "foreign.example", "Origin": "http://foreign.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_requests_of_other_sites_are_rejected(server: Server, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(own=server.url.rstrip("/")) for name, value in headers.items()}
    assert upload(server, "small.mp4", b"content", **sent).status == status


@needs_shared
def test_a_link_to_the_page_works_and_nothing_else_of_it(server: Server) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    assert request(server.url, headers=followed).status == 200
    for path in ("model", "openapi.json", "docs", "redoc"):
        assert request(f"{server.url}{path}", headers=followed).status == 403
    for path in ("openapi.json", "docs", "redoc"):
        assert request(f"{server.url}{path}").status == 404


@needs_shared
def test_server_listens_only_on_the_loopback_address(server: Server) -> None:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    # On Linux all of 127.0.0.0/8 is this machine, so another of these addresses stands for another interface.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port)).close()


@needs_shared
def test_error_about_an_invalid_video_has_the_file_name_but_not_its_path(server: Server) -> None:
    answer = post_form(f"{server.url}ground", ("notes.txt", b"no video"), QUERIES)
    assert answer.status == 400
    assert answer.json()["error"].startswith("notes.txt: ")
    assert str(server.uploads) not in answer.json()["error"]


# --- errors before the server starts ---


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["serve", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("package", ["uvicorn", "python_multipart"])
def test_missing_extra_is_a_one_line_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = refusal(capsys, "--checkpoint", "none.ckpt")
    assert line.endswith(f"{package} is not installed; pip install 'sdst[serve]'")


def test_port_in_use_and_missing_checkpoint_are_one_line_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used" in refusal(capsys, "--checkpoint", "none.ckpt", "--port", port)
    assert "none.ckpt: no such checkpoint" in refusal(capsys, "--checkpoint", "none.ckpt", "--port", 0)
    half = ("--checkpoint", "none.ckpt", "--port", 0, "--vocab", "v.txt")
    assert "go together" in refusal(capsys, *half)
    assert "cannot be used" in refusal(capsys, "--checkpoint", "none.ckpt", "--port", 70000)


# --- the documentation ---

PAGE = Path(__file__).parents[2] / "docs" / "own-videos.md"


def shape(value: Any) -> Any:
    """Keys and types of a JSON value; a list by its first element."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value)


@needs_shared
def test_documented_requests_give_the_documented_json(server: Server, video_run: Any, tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    ask, ask_again = re.findall(r"```sh\n(curl .*)\n```", text)
    answer, status = map(json.loads, re.findall(r"```json\n(.*?)```", text, re.DOTALL))
    (tmp_path / "holiday.mp4").write_bytes(video_run.video("c").read_bytes())

    def call(command: str, video: str) -> Any:
        here = command.replace("http://127.0.0.1:7860/", server.url).replace(answer["video"], video)
        done = subprocess.run([*shlex.split(here), "-s"], cwd=tmp_path, capture_output=True, check=True)
        return json.loads(done.stdout)

    first = call(ask, "")
    first["answers"][0]["unseen_words"] = []  # the vocabulary of the test model is tiny
    assert shape(first) == shape(answer)
    assert [first[key] for key in ("name", "duration", "clip_seconds")] == [
        answer[key] for key in ("name", "duration", "clip_seconds")
    ]
    assert len(first["answers"][0]["saliency"]) == len(answer["answers"][0]["saliency"])
    again = call(ask_again, first["video"])
    assert shape(again).keys() == shape(answer).keys()
    assert again["answers"][0]["query"] == "people eat ice cream"
    found = request(f"{server.url}videos/{first['video']}").json()
    assert found == status | {"id": first["video"]}
    documented = set(re.findall(r"`(?:GET|POST) /([\w/{}]+)", text))
    from sdst.serve.app import make_app

    routes = {route.path for route in make_app(None, {}).routes}  # type: ignore[arg-type, attr-defined]
    assert routes - {"/", "/page.css", "/page.js"} == {f"/{path}" for path in documented}


# --- in the browser ---


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of ten seconds that every Chromium plays."""
    from helpers.video_files import write_grey_video

    times = [index / 5 for index in range(50)]
    path = tmp_path_factory.mktemp("film") / "a film.webm"
    return write_grey_video(path, times, size=(32, 32), codec="libvpx", pix_fmt="yuv420p")


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian's package: chromium)")
VIDEO = "document.querySelector('video')"


@pytest.fixture
def page(server: Server, browser: Browser) -> Browser:
    """The page at 1280 pixels, with all videos, errors and addresses forgotten."""
    browser.resize(1280, 900)
    browser.send("Page.navigate", url=f"{server.url}model")  # of the same origin, whose storage is cleared
    browser.wait("location.pathname === '/model'")
    browser.evaluate("sessionStorage.clear()")
    browser.errors.clear()
    browser.fetched.clear()
    browser.send("Page.navigate", url=server.url)
    browser.wait("document.querySelector('#about summary')?.textContent")
    return browser


def choose_files(page: Browser, *files: Path) -> None:
    root = page.send("DOM.getDocument")["root"]["nodeId"]
    field = page.send("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
    page.send("DOM.setFileInputFiles", nodeId=field, files=list(map(str, files)))


def type_queries(page: Browser, *queries: str) -> None:
    page.evaluate(f"document.getElementById('queries').value = {json.dumps(chr(10).join(queries))}")
    page.evaluate("document.getElementById('queries').focus()")
    page.press("Enter")


def texts(page: Browser, selector: str) -> list[str]:
    found: list[str] = page.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(element => element.textContent)"
    )
    return found


@needs_shared
@pytest.mark.browser
@needs_browser
def test_page_answers_queries_on_one_timeline_without_other_servers(
    server: Server, film: Path, page: Browser
) -> None:
    choose_files(page, film)
    type_queries(page, QUERIES[0], HOSTILE)  # while the video is encoded
    page.wait("document.querySelectorAll('#view section').length === 2")
    assert texts(page, "#view h2") == [QUERIES[0], HOSTILE]
    assert page.evaluate("document.querySelectorAll('main img').length") == 0
    assert page.evaluate("document.querySelectorAll('.saliency path').length") == 2
    assert page.evaluate("document.querySelectorAll('video').length") == 1
    (unseen,) = texts(page, ".unseen")
    assert "“constructor”" in unseen
    assert "Answered in" in texts(page, "#answered")[0]
    assert texts(page, "#message") == [""]
    # A further query stands above the others, and one that is there already takes its place.
    type_queries(page, QUERIES[1])
    page.wait("document.querySelectorAll('#view section').length === 3")
    type_queries(page, QUERIES[0])
    page.wait(f"document.querySelector('#view h2').textContent === {json.dumps(QUERIES[0])}")
    assert texts(page, "#view h2") == [QUERIES[0], QUERIES[1], HOSTILE]
    page.evaluate("document.querySelector('.remove').click()")
    assert texts(page, "#view h2") == [QUERIES[1], HOSTILE]

    assert not page.evaluate("'broken' in window")
    elsewhere = [url for url in page.fetched if not url.startswith((server.url, "data:", "about:"))]
    assert page.fetched
    assert elsewhere == []
    assert page.errors == []


@needs_shared
@pytest.mark.browser
@needs_browser
def test_moments_are_played_by_clicks_and_keys(film: Path, page: Browser) -> None:
    choose_files(page, film)
    type_queries(page, QUERIES[0])
    page.wait(f"document.querySelector('.moments button') && {VIDEO}.readyState > 0")
    page.press("Escape")
    assert page.evaluate("document.activeElement.id") != "queries"

    def wait_for_start(rank: int) -> None:
        """The player is within the moment that is selected, both in the list and on the timeline."""
        href = page.evaluate(f"document.querySelectorAll('.download')[{rank}].href")
        start, end = map(float, re.findall(r"=([\d.]+)", href))
        page.wait(
            f"!{VIDEO}.seeking && {start} - 0.05 <= {VIDEO}.currentTime && {VIDEO}.currentTime <= {end} + 1"
        )
        selected = page.evaluate(
            "[...document.querySelectorAll('[aria-pressed=true]')].map(e => e.dataset.rank)"
        )
        assert selected == [str(rank)] * 2

    page.evaluate("document.querySelectorAll('.track .moment')[0].click()")
    first = int(page.evaluate("document.querySelector('.track .moment').dataset.rank"))
    wait_for_start(first)
    page.press("n")
    wait_for_start(first + 1)
    page.press("p")
    wait_for_start(first)
    # Space pauses also while a moment has the focus, and the arrows step by a second.
    page.evaluate(f"{VIDEO}.currentTime = 0, {VIDEO}.play()")
    page.press(" ")
    page.wait(f"{VIDEO}.paused && !{VIDEO}.seeking")
    time = page.evaluate(f"{VIDEO}.currentTime")
    page.press("ArrowRight")
    page.wait(f"Math.abs({VIDEO}.currentTime - {time} - 1) < 0.05")
    page.press("ArrowLeft")
    page.wait(f"Math.abs({VIDEO}.currentTime - {time}) < 0.05")
    # A click on a track seeks.
    box = page.evaluate(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('.thumbnails').getBoundingClientRect())"
    )
    at = {"x": box[0] + box[2] / 2, "y": box[1] + box[3] / 2, "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        page.send("Input.dispatchMouseEvent", type=kind, **at)
    page.wait(f"Math.abs({VIDEO}.currentTime - {VIDEO}.duration / 2) < 0.3")
    assert page.evaluate("document.querySelector('.pointer').hidden") in (True, False)
    # Keys are letters in the text field.
    page.press("q")
    page.wait("document.activeElement.id === 'queries'")
    page.press("n")
    assert page.evaluate("document.getElementById('queries').value") == "n"
    assert page.evaluate(f"{VIDEO}.error") is None
    assert page.errors == []


@needs_shared
@pytest.mark.browser
@needs_browser
def test_videos_are_switched_and_a_bad_one_says_why_in_one_line(
    film: Path, video_run: Any, page: Browser, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "large.mp4").write_bytes(bytes(2**20 + 1))
    choose_files(page, film, tmp_path / "notes.txt", tmp_path / "large.mp4")
    page.wait("document.querySelectorAll('#videos .failed').length === 2")
    states = texts(page, "#videos .failed .state")
    assert states[0].startswith("notes.txt: cannot be opened")
    assert states[1].startswith("large.mp4: larger than 1 MiB; ")
    type_queries(page, QUERIES[0])  # the last video is shown, which failed
    page.wait("document.getElementById('message').textContent.includes('large.mp4')")
    page.evaluate("document.querySelector('#videos button').click()")
    page.wait("document.querySelector('#view .timeline:not([hidden])')")
    type_queries(page, QUERIES[0])
    page.wait("document.querySelectorAll('#view section').length === 1")
    assert texts(page, "#message") == [""]
    page.evaluate("document.querySelectorAll('#videos button')[1].click()")
    assert page.evaluate("document.querySelectorAll('#view section, video').length") == 0
    page.evaluate("document.querySelector('#videos button').click()")
    assert texts(page, "#view h2") == [QUERIES[0]]
    # Loading the page again brings back what can be used.
    page.send("Page.reload")
    page.wait("document.readyState === 'complete' && document.querySelector('#view h2')")
    assert texts(page, "#videos .name") == [film.name]
    assert texts(page, "#view h2") == [QUERIES[0]]


@needs_shared
@pytest.mark.browser
@needs_browser
def test_page_fits_a_phone_and_knows_dark_mode(film: Path, page: Browser) -> None:
    page.resize(400, 800)
    choose_files(page, film)
    type_queries(page, QUERIES[0], "x" * 200)
    page.wait("document.querySelectorAll('#view section').length === 2")
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.send("Emulation.setEmulatedMedia", features=[])


@needs_shared
@pytest.mark.browser
@needs_browser
def test_examples_are_asked_with_a_click(film: Path, page: Browser) -> None:
    choose_files(page, film)
    page.wait("document.querySelector('#examples button')")
    page.evaluate("document.querySelector('#examples button').click()")
    page.wait("document.querySelector('#view h2')")
    assert texts(page, "#view h2") == texts(page, "#examples button")[:1]
