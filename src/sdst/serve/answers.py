"""Answers as a separate document inside the page, with the timeline, curves and player of ``sdst show``.

The frame separates styles and scripts of the answers from the page around it, and its content security policy restricts
what untrusted texts could do.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import quote

from sdst.show.embedded import csp_hash, embed, page_file
from sdst.show.samples import describe_samples
from sdst.types import Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdst.inference.grounder import EncodedVideo
    from sdst.types import Prediction

SHOW_SCRIPTS = ("elements.js", "charts.js", "timeline.js", "video.js")
"""Scripts of ``sdst show`` that draw a query."""
FILES = "/gradio_api/file="
"""URL prefix under which Gradio serves uploaded files by path."""


def answers_frame(
    video: EncodedVideo, path: Path, predictions: Sequence[Prediction], clip_seconds: float
) -> str:
    """An iframe, as HTML, with a timeline for each query of a video.

    Args:
        video: Features of the uploaded video.
        path: Path of the uploaded file.
        predictions: One prediction per query, at least one.
        clip_seconds: Length of a clip in seconds.
    """
    records = [Record(answer.qid, video.vid, answer.query, video.duration) for answer in predictions]
    data = {
        "clip_seconds": clip_seconds,
        "runs": [{"name": "the model"}],
        "videos": {video.vid: FILES + quote(str(path))},
        "samples": describe_samples(records, [{answer.qid: answer for answer in predictions}], [None], {}),
    }
    sources = resources.files("sdst.serve")
    style = page_file("page.css")
    script = "\n".join(
        [*map(page_file, SHOW_SCRIPTS), sources.joinpath("answers.js").read_text(encoding="utf-8")]
    )
    document = Template(sources.joinpath("answers.html").read_text(encoding="utf-8")).substitute(
        style=style,
        style_hash=csp_hash(style),
        script=script,
        script_hash=csp_hash(script),
        data=embed(data),
    )
    return f'<iframe title="Answers" style="width: 100%; border: 0" srcdoc="{escape(document)}"></iframe>'
