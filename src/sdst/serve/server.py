"""The server, which stops encoding before it waits for open requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvicorn
from starlette.concurrency import run_in_threadpool

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp

    from sdst.serve.library import VideoLibrary

GRACE = 1  # seconds for open connections, which must not keep the server from stopping


class Server(uvicorn.Server):
    """Serves an application until it is interrupted.

    Args:
        app: The application.
        library: Its videos. Requests may wait for their features, so it is closed first.
    """

    def __init__(self, app: ASGIApp, library: VideoLibrary) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE))
        self._library = library

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests that wait for features with an error, then close all connections."""
        await run_in_threadpool(self._library.close)
        await super().shutdown(sockets)
