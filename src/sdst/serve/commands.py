"""``sdst serve``: a page on this machine to drop a video on, ask it sentences and play the moments."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from typing import TYPE_CHECKING

from sdst.console.parser import Parser, at_least
from sdst.errors import UserError
from sdst.inference.commands import add_backbone_options

if TYPE_CHECKING:
    from collections.abc import Sequence

ADDRESS = "127.0.0.1"
"""This machine alone: whoever reaches the page can make it work."""


def main(argv: Sequence[str]) -> int:
    """Serve until interrupted; the page's address goes to stdout.

    Raises:
        UserError: A package is missing, a file cannot be used, or the port is taken.
    """
    args = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sdst-serve-") as uploads:
        # Read when Gradio is imported, or its components made.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads}
        try:
            import uvicorn

            from sdst.inference.video import check_backbone_options, load_grounder
            from sdst.serve.app import Desk, make_app
        except ImportError as error:
            raise UserError(
                f"sdst serve: {error.name} is not installed; pip install 'sdst[serve]'"
            ) from error
        check_backbone_options(args)
        with _listen(args.port) as listener:
            app = make_app(Desk(load_grounder(args)), args.max_upload * 2**20)
            sys.stdout.write(f"http://{ADDRESS}:{listener.getsockname()[1]}/\n")
            sys.stdout.flush()
            # Connections that people and other sites keep open must not keep the server from ending.
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that uploads are deleted then, too
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listen(port: int) -> socket.socket:
    """A socket on this machine's own address, taken before the model is loaded."""
    try:
        return socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"sdst serve: port {port} cannot be used ({error}); choose another --port") from error


def _parser() -> Parser:
    parser = Parser(
        prog="sdst serve",
        description="A page on this machine, and reachable from it alone: drop a video, type queries, see their "
        "moments on a timeline and play them. Uploads are deleted at the end.",
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="C", help="best.ckpt or last.ckpt of a run")
    add("--port", type=at_least(0), default=7860, help="where to listen; 0 for any free one (%(default)s)")
    add(
        "--max-upload",
        type=at_least(1),
        default=2048,
        metavar="MIB",
        help="size of a video at most (%(default)s)",
    )
    add_backbone_options(parser)
    return parser
