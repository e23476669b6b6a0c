"""Protection of the local server from pages of other sites that are open in the same browser."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWN_NAMES = {"127.0.0.1", "localhost"}
"""Host names accepted in requests."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
"""Headers of every response. Even if an uploaded file is a web page instead of a video, it cannot run anything."""


class OwnPageOnly:
    """Rejects requests from pages of other sites.

    They are recognised by their host name (DNS rebinding), by their origin, and, where browsers send no origin, by what
    they say about the site (Fetch Metadata). A link to the page itself may be followed from anywhere.

    Args:
        app: The application behind the guard.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _is_own(Request(scope)):
            await self._app(scope, receive, _with_headers(send))
        else:
            refusal = JSONResponse({"error": "only this server's own page may send requests to it"}, 403)
            await refusal(scope, receive, send)


def _is_own(request: Request) -> bool:
    host, headers = request.url.netloc, request.headers
    origin = headers.get("origin", f"http://{host}")
    own = headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    followed = request.url.path == "/" and headers.get("sec-fetch-dest") == "document"
    return request.url.hostname in OWN_NAMES and urlsplit(origin).netloc == host and (own or followed)


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return send_with_headers
