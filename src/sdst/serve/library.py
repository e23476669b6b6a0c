"""The uploaded videos and their features, each computed once, in the background."""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdst.errors import UserError
from sdst.inference.video import expected_clips
from sdst.serve.model_lock import ModelLock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from sdst.inference.grounder import EncodedVideo, Grounder
    from sdst.types import Prediction

logger = logging.getLogger(__name__)

STOPS = "the server stops"
LOOK = "see the messages of sdst serve"
CHUNK = 2**20  # bytes copied at a time
LONGEST_NAME = 200  # characters kept of a file name


class TooLargeError(UserError):
    """A video has more bytes than the server accepts."""


class UnknownVideoError(UserError):
    """An id names no uploaded video."""


class EncodingError(UserError):
    """A video was not encoded for a reason that is not in the video, such as a GPU without free memory."""


class ClosedError(UserError):
    """The server stops."""


@dataclass(eq=False)
class StoredFile:
    """A video file and its features. Equal files are stored and encoded once.

    Attributes:
        path: The file, named by a digest of its content.
        clips_done: Number of clips encoded so far.
        clips: Expected number of clips; None before the file was opened, or if its headers do not state it.
        features: The features, or the reason why there are none.
    """

    path: Path
    clips_done: int = 0
    clips: int | None = None
    features: Future[EncodedVideo] = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class Video:
    """One upload: a file under the name that its user gave it.

    Attributes:
        id: Random name of the upload in addresses.
        name: Name of the file on the user's disk.
        file: The stored file, which other uploads may share.
    """

    id: str
    name: str
    file: StoredFile

    def reason(self, error: BaseException) -> str:
        """What went wrong with this video. Users know the name of their file, but not the server's path."""
        return " ".join(str(error).replace(str(self.file.path), self.name).split())

    def status(self) -> dict[str, Any]:
        """How far the video is, as plain values."""
        features, state, error = self.file.features, "encoding", None
        if features.done():
            failure = features.exception()
            state = "ready" if failure is None else "failed"
            error = None if failure is None else self.reason(failure)
        return {
            "id": self.id,
            "name": self.name,
            "state": state,
            "clips_done": self.file.clips_done,
            "clips": self.file.clips,
            "duration": features.result().duration if state == "ready" else None,
            "error": error,
        }


class VideoLibrary:
    """Stores uploads, encodes them one after the other in a thread, and answers queries about them.

    Args:
        grounder: Model with a backbone.
        folder: Empty folder for the videos.
        max_bytes: Maximum size of a video.
    """

    def __init__(self, grounder: Grounder, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._grounder = grounder
        self._model = ModelLock()
        self._files: dict[str, StoredFile] = {}
        self._videos: dict[str, Video] = {}
        self._adding = threading.Lock()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._is_closed = False

    def add(self, source: BinaryIO, name: str) -> Video:
        """Store an upload and begin to encode it, unless the same content is stored already.

        Args:
            source: The content.
            name: Name of the file on the user's disk, which may contain folders.

        Raises:
            TooLargeError: The content is larger than ``max_bytes``.
            ClosedError: The library is closed.
        """
        if self._is_closed:
            raise ClosedError(STOPS)
        name = name.replace("\\", "/").rpartition("/")[2][:LONGEST_NAME] or "video"
        arriving = self.folder / f"{secrets.token_hex(8)}.part"
        try:
            digest = self._copy(source, arriving, name)
            with self._adding:
                file = self._files.get(digest)
                if file is None:
                    file = self._files[digest] = StoredFile(arriving.rename(self.folder / digest))
                    self._encoder.submit(self._encode, digest, file)
                video = Video(secrets.token_urlsafe(9), name, file)
                self._videos[video.id] = video
        finally:
            arriving.unlink(missing_ok=True)
        return video

    def find(self, video_id: str) -> Video:
        """The upload with this id.

        Raises:
            UnknownVideoError: There is none.
        """
        if video_id not in self._videos:
            raise UnknownVideoError(f"no video has the id {video_id[:40]!r}; upload it again")
        return self._videos[video_id]

    def predict(self, features: EncodedVideo, queries: Sequence[str]) -> list[Prediction]:
        """One prediction per query, before further clips of other videos are encoded.

        Raises:
            UserError: A query is empty or not valid text.
        """
        with self._model.query():
            return self._grounder.predict(features, queries)

    def unseen_words(self, query: str) -> list[str]:
        """Words of a query, in lower case, that the model was not trained on; empty if that is unknown."""
        return self._grounder.unseen_words([query])

    def close(self) -> None:
        """Stop encoding after the current batch; requests that wait for features get a ``ClosedError``."""
        self._is_closed = True
        self._encoder.shutdown(cancel_futures=True)
        for file in self._files.values():
            if not file.features.done():
                file.features.set_exception(ClosedError(STOPS))

    def _copy(self, source: BinaryIO, target: Path, name: str) -> str:
        """Write a file and return a digest of its content."""
        digest, size = hashlib.sha256(), 0
        with target.open("xb") as out:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                if size > self.max_bytes:
                    raise TooLargeError(too_large(name, self.max_bytes))
                digest.update(chunk)
                out.write(chunk)
        return digest.hexdigest()

    def _encode(self, digest: str, file: StoredFile) -> None:
        def advance(count: int) -> None:
            file.clips_done += count
            if self._is_closed:
                raise ClosedError(STOPS)
            self._model.let_queries_pass()

        try:
            file.clips = expected_clips(self._grounder, file.path)
            with self._model.encoding():
                encoded = self._grounder.encode(file.path, advance)
        except Exception as error:  # whatever error a video causes, the others can still be asked about
            failure = error
            if not isinstance(error, UserError):
                logger.exception("encoding a video failed")
                failure = EncodingError(f"{file.path}: encoding failed ({describe(error)}); {LOOK}")
            # Forgotten, so that another upload tries again.
            with self._adding:
                del self._files[digest]
            file.path.unlink(missing_ok=True)
            file.features.set_exception(failure)
        else:
            file.clips_done = file.clips = encoded.features.shape[1]
            file.features.set_result(encoded)


def describe(error: Exception) -> str:
    """An unexpected error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def too_large(name: str, max_bytes: int) -> str:
    """The message about a video that exceeds the limit."""
    return f"{name}: larger than {max_bytes / 2**20:g} MiB; cut it, or restart sdst serve with a larger --max-upload"
