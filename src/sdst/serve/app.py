"""The web page of ``sdst serve``: takes a video and queries, shows the moments on a timeline."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import gradio as gr
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from sdst.data.jsonlines import is_unicode
from sdst.errors import UserError
from sdst.inference.video import expected_clips, unseen_note
from sdst.serve.answers import answers_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from sdst.inference.grounder import EncodedVideo, Grounder

KEPT_VIDEOS = 16
"""Number of videos whose features are kept for further queries."""
OWN_NAMES = {"127.0.0.1", "localhost"}
"""Host names accepted in requests."""
DESCRIPTIONS = {"/openapi.json", "/docs", "/redoc"}
"""Paths where Gradio's own application describes itself."""


class AnswerService:
    """Answers the queries that the page sends.

    Args:
        grounder: Model with a backbone.
    """

    def __init__(self, grounder: Grounder) -> None:
        self._grounder = grounder
        self._videos: dict[Path, EncodedVideo] = {}

    def answer(self, upload: str | None, text: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        """The timelines of all queries as HTML.

        Args:
            upload: Path of the uploaded video. It contains a digest of the content, so equal files have equal paths.
            text: One query per line; empty lines are skipped.
            progress: Progress bar of the page, passed by Gradio.

        Raises:
            gr.Error: The input is unusable; the page shows the message.
        """
        queries = [line.strip() for line in text.splitlines() if line.strip()]
        if upload is None:
            raise gr.Error("Upload a video first.", print_exception=False)
        if not queries or not is_unicode(text):
            raise gr.Error("Type at least one query, one per line.", print_exception=False)
        path = Path(upload)
        try:
            video = self._encode(path, progress)
            predictions = self._grounder.predict(video, queries)
        except UserError as error:
            # Users know the name of their file, but not the server's path.
            message = str(error).replace(str(path), path.name)
            raise gr.Error(escape(message), print_exception=False) from error
        unseen = self._grounder.unseen_words(queries)
        note = f"<p>Warning: {escape(unseen_note(unseen))}.</p>" if unseen else ""
        return note + answers_frame(video, path, predictions, self._grounder.recipe["clip_seconds"])

    def _encode(self, path: Path, progress: gr.Progress) -> EncodedVideo:
        if path not in self._videos:
            total, done = expected_clips(self._grounder, path), 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                progress((done, total), desc="encoding the video", unit="clips")

            self._videos[path] = self._grounder.encode(path, advance)
            if len(self._videos) > KEPT_VIDEOS:
                del self._videos[next(iter(self._videos))]
        return self._videos[path]


def make_app(service: AnswerService, max_upload_bytes: int) -> FastAPI:
    """The web application. Uploads go to Gradio's folder.

    The page loads nothing from other servers, and Gradio's telemetry is off.

    Args:
        service: Service that answers the queries.
        max_upload_bytes: Maximum size of a video in bytes.
    """
    with gr.Blocks(title="SDST", analytics_enabled=False) as page:
        gr.Markdown("# Find moments\nUpload a video and describe the moments to find, one sentence per line.")
        with gr.Row():
            video = gr.File(label="Video")
            queries = gr.Textbox(
                label="Queries, one per line", lines=6, placeholder="a dog jumps into the water"
            )
        button = gr.Button("Find", variant="primary")
        answers = gr.HTML()
        # One request at a time, because two would only compete for the same device.
        button.click(service.answer, [video, queries], answers, api_name="answer", concurrency_limit=1)
    # Gradio rejects files that were not uploaded only on pages that it has launched itself.
    page.has_launched = True
    app = FastAPI(openapi_url=None)
    app.middleware("http")(own_page_only)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=max_upload_bytes,
        # System fonts, because those of Gradio's theme may be loaded from other servers.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    return app


async def own_page_only(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Reject requests from pages of other sites in the same browser.

    They are known by their host name (DNS rebinding), by their origin, and, where browsers send no origin, by what
    they say about the site (Fetch Metadata). A link to the page itself may be followed from anywhere.
    """
    host = request.url.netloc
    headers = request.headers
    origin = headers.get("origin", f"http://{host}")
    own = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    followed = request.url.path == "/" and headers.get("sec-fetch-dest") == "document"
    if request.url.hostname not in OWN_NAMES or urlsplit(origin).netloc != host or not (own or followed):
        return PlainTextResponse("Only this server's own page may send requests to it.", 403)
    if request.url.path in DESCRIPTIONS:
        return PlainTextResponse("Not found.", 404)
    return await call_next(request)
