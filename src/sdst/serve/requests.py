"""Reading requests: uploads within the size limit, and queries as a form or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request

from sdst.errors import UserError
from sdst.serve.library import TooLargeError, too_large

if TYPE_CHECKING:
    from starlette.datastructures import FormData
    from starlette.types import Message, Receive

    from sdst.serve.library import Video, VideoLibrary

MOST_QUERIES = 100
"""Most queries in one request."""
OVERHEAD = 2**20
"""Bytes that a request may have beside the video: queries, names and separators."""
EXPECTED = (
    'expected a form with "video" and "query" fields, or JSON such as {"video": ID, "queries": ["a dog"]}'
)


async def read_upload(request: Request, library: VideoLibrary) -> Video:
    """Store the video in the form field ``video``.

    Raises:
        TooLargeError: The video is larger than the server accepts.
        UserError: The request has no video.
    """
    form = await _read_form(request, library)
    return await _store(form.get("video"), library)


async def read_question(request: Request, library: VideoLibrary) -> tuple[Video, list[str]]:
    """The video and the queries of a request; a video that comes with it is stored.

    Raises:
        TooLargeError: The video is larger than the server accepts.
        UnknownVideoError: No video has the id.
        UserError: The request is neither a form nor JSON with a video and queries.
    """
    content: dict[str, Any]
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        form = await _read_form(request, library)
        content = {"video": form.get("video"), "queries": form.getlist("query")}
    else:
        content = await _read_json(request)
    queries, video = content.get("queries"), content.get("video")
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise UserError(EXPECTED)
    queries = [query.strip() for query in queries if query.strip()]
    if not 0 < len(queries) <= MOST_QUERIES:
        raise UserError(f"expected 1 to {MOST_QUERIES} queries, got {len(queries)}; type a sentence")
    if isinstance(video, str):
        return library.find(video), queries
    return await _store(video, library), queries


async def _store(upload: Any, library: VideoLibrary) -> Video:
    if not isinstance(upload, UploadFile):
        raise UserError(EXPECTED)
    return await run_in_threadpool(library.add, upload.file, upload.filename or "")


async def _read_form(request: Request, library: VideoLibrary) -> FormData:
    most = library.max_bytes + OVERHEAD
    refusal = TooLargeError(too_large("the upload", library.max_bytes))
    if int(request.headers.get("content-length", 0)) > most:
        raise refusal
    limited = Request(request.scope, _limited(request.receive, most, refusal))
    return await limited.form(max_files=1, max_fields=MOST_QUERIES + 1)


async def _read_json(request: Request) -> dict[str, Any]:
    refusal = UserError(f"expected at most {OVERHEAD} bytes of JSON; send fewer queries")
    body = await Request(request.scope, _limited(request.receive, OVERHEAD, refusal)).body()
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(EXPECTED)
    return content


def _limited(receive: Receive, most: int, refusal: UserError) -> Receive:
    """Receive a request until it exceeds a number of bytes, whatever length it states."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise refusal
        return message

    return receive_limited
