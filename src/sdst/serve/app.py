"""The web page of ``sdst serve``: a video and queries in, moments on a timeline out."""

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
from sdst.inference.video import expected_clips
from sdst.serve.answers import answers_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from sdst.inference.grounder import EncodedVideo, Grounder

KEPT_VIDEOS = 16
"""So many videos' features are kept for further queries."""
OWN_NAMES = {"127.0.0.1", "localhost"}
"""Of the machine, by which the page may be asked for."""


class Desk:
    """Answers what the page asks.

    Args:
        grounder: With a backbone.
    """

    def __init__(self, grounder: Grounder) -> None:
        self._grounder = grounder
        self._videos: dict[Path, EncodedVideo] = {}

    def answer(self, upload: str | None, text: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        """The timelines of all queries as HTML.

        Args:
            upload: Where the server put the video. The path holds a digest of the content, so a file is known again.
            text: A query per line; empty lines are skipped.
            progress: Gradio passes the bar of the page that asked.

        Raises:
            gr.Error: Shown on the page.
        """
        queries = [line.strip() for line in text.splitlines() if line.strip()]
        if upload is None:
            raise gr.Error("Drop a video first.", print_exception=False)
        if not queries or not is_unicode(text):
            raise gr.Error("Type a sentence, or several, one per line.", print_exception=False)
        path = Path(upload)
        try:
            video = self._encode(path, progress)
            predictions = self._grounder.predict(video, queries)
        except UserError as error:
            # People know their file by its name; where the server put it means nothing to them.
            message = str(error).replace(str(path), path.name)
            raise gr.Error(escape(message), print_exception=False) from error
        return answers_frame(video, path, predictions, self._grounder.recipe["clip_seconds"])

    def _encode(self, path: Path, progress: gr.Progress) -> EncodedVideo:
        if path not in self._videos:
            total, done = expected_clips(self._grounder, path), 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                progress((done, total), desc="watching the video", unit="clips")

            self._videos[path] = self._grounder.encode(path, advance)
            if len(self._videos) > KEPT_VIDEOS:
                del self._videos[next(iter(self._videos))]
        return self._videos[path]


def make_app(desk: Desk, max_upload_bytes: int) -> FastAPI:
    """The web application; uploads go to Gradio's folder.

    Nothing of the page is fetched from elsewhere, and Gradio reports nothing to its makers.

    Args:
        desk: Answers.
        max_upload_bytes: A larger video is refused.
    """
    with gr.Blocks(title="SDST", analytics_enabled=False) as page:
        gr.Markdown("# Find moments\nDrop a video and describe what to look for, in one sentence per line.")
        with gr.Row():
            video = gr.File(label="Video")
            queries = gr.Textbox(
                label="Queries, one per line", lines=6, placeholder="a dog jumps into the water"
            )
        button = gr.Button("Find", variant="primary")
        answers = gr.HTML()
        # One at a time: two at once would only wait for each other.
        button.click(desk.answer, [video, queries], answers, api_name="answer", concurrency_limit=1)
    # Gradio refuses files that were not uploaded only of pages that it launched itself.
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
        # Fonts of the system: those of Gradio's theme may be fetched from elsewhere.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    return app


async def own_page_only(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what other sites' pages in the same browser send: under a name of theirs that points here, or openly."""
    host = request.url.netloc
    origin = request.headers.get("origin", f"http://{host}")
    if request.url.hostname in OWN_NAMES and urlsplit(origin).netloc == host:
        return await call_next(request)
    return PlainTextResponse("Only the page of this server itself may ask it.", 403)
