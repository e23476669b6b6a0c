"""The library of ``sdst serve`` with a replacement of the model: encoding once, failures, queries before encoding."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("av")

from sdst.errors import UserError
from sdst.features.video import VideoError
from sdst.inference.grounder import EncodedVideo
from sdst.serve import library as module
from sdst.serve.library import EncodingError, TooLargeError, UnknownVideoError, VideoLibrary
from sdst.types import Prediction

SECONDS = 30
"""Time after which a thread that does not answer fails the test."""


class CountingGrounder:
    """Records the contents that it encodes. Content ``slow`` waits in its first batch until ``go`` is set.

    ``ended`` has the ends of encodings and predictions.
    """

    def __init__(self) -> None:
        self.encoded: list[bytes] = []
        self.ended: list[bytes] = []
        self.is_slow = threading.Event()
        self.go = threading.Event()

    def encode(self, path: Path, advance: Any) -> EncodedVideo:
        content = path.read_bytes()
        self.encoded.append(content)
        if content == b"bad":
            raise VideoError(f"{path}: <b>damaged</b>")
        if content == b"broken":
            raise RuntimeError("out of memory")
        for _ in range(2):
            if content == b"slow":
                self.is_slow.set()
                assert self.go.wait(SECONDS)
            advance(1)
        self.ended.append(content)
        return EncodedVideo(path.stem, 4.0, np.zeros((1, 2, 3), np.float16))

    def predict(self, video: EncodedVideo, queries: list[str]) -> list[Prediction]:
        self.ended.append(b"query")
        return [Prediction(i, video.vid, q, np.array([[0.0, 2.0, 0.5]])) for i, q in enumerate(queries)]


@pytest.fixture
def grounder() -> CountingGrounder:
    return CountingGrounder()


@pytest.fixture
def library(
    grounder: CountingGrounder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VideoLibrary]:
    monkeypatch.setattr(module, "expected_clips", lambda grounder, path: 3)
    opened = VideoLibrary(grounder, tmp_path, 100)  # type: ignore[arg-type]
    yield opened
    grounder.go.set()
    opened.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds that a thread does."""
    last = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.001)


def add(library: VideoLibrary, content: bytes, name: str = "a.mp4") -> module.Video:
    return library.add(io.BytesIO(content), name)


def test_equal_files_are_stored_and_encoded_once_under_each_name(
    library: VideoLibrary, grounder: CountingGrounder, tmp_path: Path
) -> None:
    first, second = add(library, b"one", "a.mp4"), add(library, b"one", "b.mp4")
    assert first.file.features.result(SECONDS) is second.file.features.result(SECONDS)
    assert grounder.encoded == [b"one"]
    assert len(list(tmp_path.iterdir())) == 1
    assert first.id != second.id
    assert [library.find(video.id).name for video in (first, second)] == ["a.mp4", "b.mp4"]
    assert second.status() == {
        "id": second.id,
        "name": "b.mp4",
        "state": "ready",
        "clips_done": 2,
        "clips": 2,
        "duration": 4.0,
        "error": None,
    }


def test_a_failed_video_names_its_upload_and_is_tried_again(
    library: VideoLibrary, grounder: CountingGrounder, tmp_path: Path
) -> None:
    bad = add(library, b"bad", "/somewhere/bad.mp4")
    with pytest.raises(VideoError):
        bad.file.features.result(SECONDS)
    assert (bad.status()["state"], bad.status()["error"]) == ("failed", "bad.mp4: <b>damaged</b>")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VideoError):
        add(library, b"bad").file.features.result(SECONDS)
    assert grounder.encoded == [b"bad", b"bad"]
    # Whatever goes wrong with one video, the next one is encoded.
    broken = add(library, b"broken", "b.mp4")
    with pytest.raises(EncodingError):
        broken.file.features.result(SECONDS)
    message = "b.mp4: encoding failed (RuntimeError: out of memory); see the messages of sdst serve"
    assert broken.status()["error"] == message
    assert add(library, b"one").file.features.result(SECONDS).duration == 4.0


def test_a_query_about_a_known_video_is_answered_while_another_is_encoded(
    library: VideoLibrary, grounder: CountingGrounder
) -> None:
    known = add(library, b"one").file.features.result(SECONDS)
    slow = add(library, b"slow")
    assert grounder.is_slow.wait(SECONDS)
    answers: list[Prediction] = []
    asking = threading.Thread(target=lambda: answers.extend(library.predict(known, ["a dog"])))
    asking.start()
    until(lambda: library._model._waiting_queries == 1)
    grounder.go.set()
    asking.join(SECONDS)
    assert [answer.query for answer in answers] == ["a dog"]
    assert slow.file.features.result(SECONDS).duration == 4.0
    assert grounder.ended == [b"one", b"query", b"slow"]


def test_waiting_queries_go_before_the_next_batch() -> None:
    from sdst.serve.model_lock import ModelLock

    lock, order = ModelLock(), []

    def ask() -> None:
        with lock.query():
            order.append("query")

    def encode() -> None:
        with lock.encoding():
            order.append("another video")

    with lock.encoding():
        threads = [threading.Thread(target=target) for target in (encode, ask, ask)]
        for thread in threads:
            thread.start()
        until(lambda: lock._waiting_queries == 2)
        lock.let_queries_pass()
        order.append("next batch")
    for thread in threads:
        thread.join(SECONDS)
    assert order[:2] == ["query", "query"]
    assert set(order[2:]) == {"next batch", "another video"}


def test_too_large_uploads_leave_nothing(library: VideoLibrary, tmp_path: Path) -> None:
    add(library, b"x" * 100).file.features.result(SECONDS)
    with pytest.raises(TooLargeError, match=r"^b\.mp4: larger than .* MiB; cut it, or restart"):
        add(library, b"x" * 101, "b.mp4")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [("../../a.mp4", "a.mp4"), ("C:\\films\\a.mp4", "a.mp4"), ("", "video"), ("x" * 300, "x" * 200)],
)
def test_names_of_uploads_are_plain(library: VideoLibrary, given: str, kept: str) -> None:
    assert add(library, b"one", given).name == kept


def test_unknown_ids_are_refused(library: VideoLibrary) -> None:
    with pytest.raises(UnknownVideoError, match="no video has the id 'none'; upload it again"):
        library.find("none")


def test_closing_ends_an_encoding_after_its_batch(library: VideoLibrary, grounder: CountingGrounder) -> None:
    slow, waiting = add(library, b"slow"), add(library, b"one")
    assert grounder.is_slow.wait(SECONDS)
    closing = threading.Thread(target=library.close)
    closing.start()
    until(lambda: library._is_closed)
    grounder.go.set()
    closing.join(SECONDS)
    with pytest.raises(UserError, match="the server stops"):
        slow.file.features.result(SECONDS)
    with pytest.raises(UserError, match="the server stops"):
        waiting.file.features.result(SECONDS)
    with pytest.raises(UserError, match="the server stops"):
        add(library, b"two")
    assert grounder.encoded == [b"slow"]
