"""The web application of ``sdst serve``: the page, uploads, and the JSON interface that the page uses itself."""

from __future__ import annotations

import asyncio
import mimetypes
import secrets
import time
from importlib import resources
from math import isfinite
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from sdst.data.predictions import format_prediction
from sdst.errors import UserError
from sdst.files.atomic import cannot_write
from sdst.inference.clips import cut, file_words
from sdst.serve.guard import OwnPageOnly
from sdst.serve.library import LOOK, ClosedError, EncodingError, TooLargeError, UnknownVideoError, describe
from sdst.serve.requests import read_question, read_upload
from sdst.show.embedded import page_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from sdst.inference.grounder import EncodedVideo
    from sdst.serve.library import Video, VideoLibrary
    from sdst.types import Prediction

SHOW_SCRIPTS = ("elements.js", "charts.js", "timeline.js", "video.js")
"""Scripts of ``sdst show`` that draw moments and saliency on a time axis."""
OWN_SCRIPTS = ("view.js", "page.js")
STATUS: dict[type[Exception], int] = {
    TooLargeError: 413,
    UnknownVideoError: 404,
    EncodingError: 500,
    ClosedError: 503,
    OSError: 507,
}
"""Status codes of errors that are not 400."""


def make_app(library: VideoLibrary, about: dict[str, Any]) -> Starlette:
    """The application. It loads nothing from other servers and does not describe itself.

    Args:
        library: The uploaded videos and the model.
        about: Description of the model (:func:`sdst.serve.about.describe_model`).
    """
    api = _Api(library, about)
    style = page_file("page.css") + _own_file("page.css")
    script = "\n".join([*map(page_file, SHOW_SCRIPTS), *map(_own_file, OWN_SCRIPTS)])
    routes = [
        Route("/", _text(_own_file("page.html"), "text/html")),
        Route("/page.css", _text(style, "text/css")),
        Route("/page.js", _text(script, "text/javascript")),
        Route("/model", api.describe),
        Route("/videos", api.upload, methods=["POST"]),
        Route("/videos/{id}", api.status),
        Route("/videos/{id}/file", api.play),
        Route("/videos/{id}/cut", api.cut),
        Route("/ground", api.ground, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(OwnPageOnly)],
        exception_handlers=dict.fromkeys(
            (UserError, HTTPException, OSError, ClientDisconnect, Exception), _explain
        ),
    )


class _Api:
    """The handlers. Everything that takes long runs in threads, so that the server always answers."""

    def __init__(self, library: VideoLibrary, about: dict[str, Any]) -> None:
        self._library = library
        self._about = about
        self._cutting = asyncio.Lock()  # because one cut already uses all cores

    async def describe(self, request: Request) -> Response:
        return JSONResponse({**self._about, "max_upload_bytes": self._library.max_bytes})

    async def upload(self, request: Request) -> Response:
        video = await read_upload(request, self._library)
        return JSONResponse(video.status(), 201)

    async def status(self, request: Request) -> Response:
        return JSONResponse(self._video(request).status())

    async def play(self, request: Request) -> Response:
        video = self._video(request)
        if video.status()["state"] == "failed":  # its file is deleted
            await _features(video)
        kind, _ = mimetypes.guess_type(video.name)
        is_media = kind is not None and kind.startswith(("video/", "audio/"))
        return FileResponse(video.file.path, media_type=kind if is_media else "application/octet-stream")

    async def cut(self, request: Request) -> Response:
        video = self._video(request)
        features = await _features(video)
        start, end = (_seconds(request, name) for name in ("start", "end"))
        if not 0 <= start < end <= features.duration + 0.1:  # times in links are rounded
            raise UserError(
                f"expected 0 <= start < end <= {features.duration:.1f}, got {start:g} and {end:g}"
            )
        out = self._library.folder / f"{secrets.token_hex(8)}.mp4"
        async with self._cutting:
            try:
                await run_in_threadpool(cut, video.file.path, start, end, out)
            except UserError as error:
                raise UserError(video.reason(error)) from error
        name = f"{file_words(PurePath(video.name).stem) or 'video'}_{start:.1f}-{end:.1f}s.mp4"
        return FileResponse(out, media_type="video/mp4", filename=name, background=BackgroundTask(out.unlink))

    async def ground(self, request: Request) -> Response:
        video, queries = await read_question(request, self._library)
        asked = time.perf_counter()
        features = await _features(video)
        encoded = time.perf_counter()
        predictions = await run_in_threadpool(self._library.predict, features, queries)
        answer = {
            "video": video.id,
            "name": video.name,
            "duration": round(features.duration, 3),
            "clip_seconds": self._about["clip_seconds"],
            "model": self._about["name"],
            "waited_seconds": round(encoded - asked, 3),
            "model_seconds": round(time.perf_counter() - encoded, 3),
            "answers": self._describe(predictions),
        }
        return JSONResponse(answer)

    def _describe(self, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
        return [
            {
                "query": row["query"],
                "moments": [
                    {"start": round(start, 3), "end": round(end, 3), "score": round(score, 4)}
                    for start, end, score in row["pred_relevant_windows"]
                ],
                "saliency": [round(value, 4) for value in row.get("pred_saliency_scores", [])],
                "unseen_words": self._library.unseen_words(row["query"]),
            }
            for row in map(format_prediction, predictions)
        ]

    def _video(self, request: Request) -> Video:
        return self._library.find(request.path_params["id"])


async def _features(video: Video) -> EncodedVideo:
    """The features of a video, once they are computed.

    Raises:
        UserError: The video cannot be used.
    """
    try:
        # Shielded, because other requests wait for the same features.
        return await asyncio.shield(asyncio.wrap_future(video.file.features))
    except UserError as error:
        raise type(error)(video.reason(error)) from error


def _seconds(request: Request, name: str) -> float:
    try:
        value = float(request.query_params[name])
    except (KeyError, ValueError):
        value = float("nan")
    if not isfinite(value):
        raise UserError(f"expected {name}=SECONDS in the address")
    return value


async def _explain(request: Request, error: Exception) -> Response:
    """An error as JSON with one line."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
    if isinstance(error, OSError):  # the disk is full
        error = cannot_write("the video", error)
    elif not isinstance(error, UserError | ClientDisconnect):
        status, error = 500, UserError(f"{describe(error)}; {LOOK}")
    return JSONResponse({"error": " ".join(str(error).split())}, status)


def _text(content: str, media_type: str) -> Any:
    """A handler that sends a fixed text; browsers must not keep it, because another version may send another text."""

    async def send_text(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-store"})

    return send_text


def _own_file(name: str) -> str:
    return resources.files("sdst.serve").joinpath(name).read_text(encoding="utf-8")
