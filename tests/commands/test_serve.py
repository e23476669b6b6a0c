"""``sdst serve`` as a running process: answers, protection of files and requests, and the page in headless Chromium."""

import html
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if find_spec("gradio") is None:  # importing it takes seconds, also where these tests do not run
    pytest.skip("the extra serve is not installed", allow_module_level=True)
pytest.importorskip("av")

import httpx
from gradio_client import Client, handle_file

from helpers.browser import CHROMIUM, Browser
from helpers.shared_data import needs_shared
from sdst.cli import main
from sdst.features.video import VideoError
from sdst.inference.grounder import EncodedVideo
from sdst.types import Prediction

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
    # Gradio reports the file that was not uploaded; there must be no other error.
    assert set(re.findall(r"^[\w.]+(?:Error|Exception)\b", err, re.MULTILINE)) <= {
        "gradio.exceptions.InvalidPathError"
    }, err
    assert list(temporary.iterdir()) == []


def ask(server: Server, video: Path, text: str) -> dict[str, Any]:
    """Data of the answer document."""
    frame = Client(server.url, verbose=False).predict(handle_file(str(video)), text, api_name="/answer")
    (document,) = re.findall(r'srcdoc="([^"]*)"', frame)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html.unescape(document))
    answers: dict[str, Any] = json.loads(data)
    return answers


@needs_shared
def test_answers_equal_those_of_sdst_predict(
    server: Server, video_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    video = video_run.video("b")
    samples = ask(server, video, f"\n{QUERIES[0]}\n \n  {QUERIES[1]} \n")["samples"]
    capsys.readouterr()
    asked = [part for query in QUERIES for part in ("--query", query)]
    assert main(["predict", *serve_options(video_run), "--video", str(video), *asked]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sample["query"] for sample in samples] == QUERIES == [row["query"] for row in rows]
    for sample, row in zip(samples, rows, strict=True):
        (answer,) = sample["answers"]
        assert len(answer["windows"]) == min(5, len(row["pred_relevant_windows"])) > 0
        for window, wanted in zip(answer["windows"], row["pred_relevant_windows"], strict=False):
            assert window == pytest.approx(wanted, abs=1e-4)
        assert answer["saliency"] == pytest.approx(row["pred_saliency_scores"], abs=1e-3)
        assert sample["duration"] == pytest.approx(12.0, abs=0.1)


def upload(server: Server, name: str, content: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}gradio_api/upload", files={"files": (name, content)}, headers=headers, trust_env=False
    )


@needs_shared
@pytest.mark.parametrize("name", ["../../escaped.mp4", "/escaped.mp4", "..", "a\\..\\escaped.mp4", "x" * 300])
def test_upload_names_cannot_leave_the_upload_folder(server: Server, name: str) -> None:
    response = upload(server, name, name.encode())
    (folder,) = server.uploads.glob("sdst-serve-*")
    if response.status_code == 200:
        (path,) = response.json()
        assert Path(path).resolve() == Path(path)
        assert Path(path).parent.parent == folder
    assert [
        entry
        for entry in server.uploads.rglob("*")
        if "escaped" in entry.name and folder not in entry.parents
    ] == []
    assert list(server.uploads.iterdir()) == [folder]


@needs_shared
def test_too_large_videos_are_rejected(server: Server) -> None:
    assert upload(server, "small.mp4", bytes(2**20 - 2**10)).status_code == 200
    assert upload(server, "large.mp4", bytes(2**20 + 2**10)).status_code == 413


@needs_shared
def test_files_that_were_not_uploaded_are_neither_served_nor_opened(server: Server, video_run: Any) -> None:
    video = video_run.video("b")
    assert httpx.get(f"{server.url}gradio_api/file={video}", trust_env=False).status_code in (403, 404)
    data = {"data": [{"path": str(video), "meta": {"_type": "gradio.FileData"}}, QUERIES[0]]}
    call = httpx.post(f"{server.url}gradio_api/call/answer", json=data, trust_env=False).json()["event_id"]
    events = httpx.get(f"{server.url}gradio_api/call/answer/{call}", trust_env=False, timeout=60).text
    assert "event: error" in events
    assert "event: complete" not in events


@needs_shared
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "{own}"}, 200),
        ({"Origin": "https://foreign.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Host": "foreign.example"}, 403),
        ({"Host": "foreign.example", "Origin": "http://foreign.example"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_requests_of_other_sites_are_rejected(server: Server, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(own=server.url.rstrip("/")) for name, value in headers.items()}
    assert upload(server, "small.mp4", b"content", **sent).status_code == status


@needs_shared
def test_a_link_to_the_page_works_and_its_description_stays_closed(server: Server) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    assert httpx.get(server.url, headers=followed, trust_env=False).status_code == 200
    for path in ("openapi.json", "docs", "redoc"):
        assert httpx.get(f"{server.url}{path}", trust_env=False).status_code == 404
        assert httpx.get(f"{server.url}{path}", headers=followed, trust_env=False).status_code == 403


@needs_shared
def test_server_listens_only_on_the_loopback_address(server: Server) -> None:
    port = int(server.url.rstrip("/").rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    # On Linux all of 127.0.0.0/8 is this machine, so another of these addresses stands for another interface.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port)).close()


@needs_shared
def test_error_about_an_invalid_video_has_the_file_name_but_not_its_path(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(Exception, match=r"^notes\.txt: ") as error:
        ask(server, tmp_path / "notes.txt", QUERIES[0])
    assert str(server.uploads) not in str(error.value)


class CountingGrounder:
    """Replacement for a model that records which videos it encodes."""

    def __init__(self) -> None:
        self.recipe = {"clip_seconds": 2.0}
        self.encoded: list[str] = []

    def encode(self, path: Path, advance: Any) -> EncodedVideo:
        self.encoded.append(path.name)
        if path.name == "bad.mp4":
            raise VideoError(f"{path}: <b>damaged</b>")
        return EncodedVideo(path.stem, 4.0, np.zeros((1, 2, 3), np.float16))

    def unseen_words(self, queries: list[str]) -> list[str]:
        return []

    def predict(self, video: EncodedVideo, queries: list[str]) -> list[Prediction]:
        return [Prediction(i, video.vid, q, np.array([[0.0, 2.0, 0.5]])) for i, q in enumerate(queries)]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Any:
    from sdst.serve import app

    monkeypatch.setattr(app, "expected_clips", lambda grounder, path: 2)
    return app.AnswerService(CountingGrounder())  # type: ignore[arg-type]


def test_video_is_encoded_once_while_its_features_are_kept(service: Any) -> None:
    from sdst.serve.app import KEPT_VIDEOS

    counted = service._grounder.encoded
    for query in ("one", "two", "three"):
        service.answer("a.mp4", query)
    assert counted == ["a.mp4"]
    for index in range(KEPT_VIDEOS):
        service.answer(f"{index}.mp4", "one")
    service.answer(f"{KEPT_VIDEOS - 1}.mp4", "two")
    assert len(counted) == 1 + KEPT_VIDEOS
    service.answer("a.mp4", "one")
    assert counted[-1] == "a.mp4"


@pytest.mark.parametrize(
    ("upload_path", "text", "message"),
    [
        (None, "a dog", "Upload a video"),
        ("a.mp4", " \n ", "Type at least one query"),
        ("a.mp4", "\ud800", "Type at least one query"),
        ("/somewhere/bad.mp4", "a dog", r"^bad\.mp4: &lt;b&gt;damaged"),
    ],
)
def test_unusable_input_is_explained(service: Any, upload_path: str | None, text: str, message: str) -> None:
    import gradio

    with pytest.raises(gradio.Error) as error:
        service.answer(upload_path, text)
    assert re.search(message, str(error.value.message))


# --- errors before the server starts ---


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["serve", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the environment variables that the command sets."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")


def test_missing_extra_is_a_one_line_error(
    settings: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "sdst.serve.app", raising=False)
    line = refusal(capsys, "--checkpoint", "none.ckpt")
    assert line.endswith("gradio is not installed; pip install 'sdst[serve]'")


def test_port_in_use_and_missing_checkpoint_are_one_line_errors(
    settings: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used" in refusal(capsys, "--checkpoint", "none.ckpt", "--port", port)
    assert "none.ckpt: no such checkpoint" in refusal(capsys, "--checkpoint", "none.ckpt", "--port", 0)
    half = ("--checkpoint", "none.ckpt", "--port", 0, "--vocab", "v.txt")
    assert "go together" in refusal(capsys, *half)
    assert "cannot be used" in refusal(capsys, "--checkpoint", "none.ckpt", "--port", 70000)


# --- in the browser ---

INSIDE = "document.querySelector('iframe[title=Answers]')?.contentDocument"
PLAYER = f"{INSIDE}.querySelector('video')"


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


@needs_shared
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian's package: chromium)")
def test_page_uploads_queries_and_plays_a_video_without_other_servers(
    server: Server, film: Path, browser: Browser
) -> None:
    browser.send("Page.navigate", url=server.url)
    browser.wait("document.querySelector('textarea') && document.querySelector('input[type=file]')")
    root = browser.send("DOM.getDocument")["root"]["nodeId"]
    field = browser.send("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
    browser.send("DOM.setFileInputFiles", nodeId=field, files=[str(film)])
    browser.wait("document.body.innerText.includes('a film')")
    browser.evaluate(f"""(() => {{
        const field = document.querySelector('textarea');
        field.value = {json.dumps(f"{QUERIES[0]}{chr(10)}{HOSTILE}")};
        field.dispatchEvent(new Event('input', {{bubbles: true}}));
    }})()""")
    find = "[...document.querySelectorAll('button')].find(button => button.textContent.trim() === 'Find')"
    browser.wait(f"{find} && !{find}.disabled")
    browser.evaluate(f"{find}.click()")
    browser.wait(f"{INSIDE}?.querySelectorAll('section').length === 2")

    queries = browser.evaluate(f"[...{INSIDE}.querySelectorAll('h2')].map(title => title.textContent)")
    assert queries == [QUERIES[0], HOSTILE]
    assert browser.evaluate(f"{INSIDE}.querySelectorAll('main img').length") == 0
    assert browser.evaluate(f"{INSIDE}.querySelectorAll('.saliency path').length") == 2

    browser.wait(f"{PLAYER}.readyState > 0")
    label = browser.evaluate(
        f"(() => {{ const m = {INSIDE}.querySelectorAll('.moment')[1]; m.click(); return m.title; }})()"
    )
    start = float(re.findall(r": ([\d.]+)–", label)[0])
    browser.wait(f"!{PLAYER}.seeking && {PLAYER}.currentTime >= {start} - 0.05")
    assert browser.evaluate(f"{PLAYER}.error") is None
    assert browser.evaluate(f"{INSIDE}.querySelectorAll('[aria-pressed=true]').length") == 1

    browser.resize(390, 900)
    browser.wait(f"{INSIDE}.documentElement.scrollHeight <= {INSIDE}.defaultView.innerHeight")
    assert browser.evaluate(f"{INSIDE}.documentElement.scrollWidth <= {INSIDE}.defaultView.innerWidth")
    assert not browser.evaluate("'broken' in window")

    elsewhere = [url for url in browser.fetched if not url.startswith((server.url, "data:", "about:"))]
    assert browser.fetched
    assert elsewhere == []
    assert browser.errors == []
