"""``sdst serve``: a local web page to upload a video, enter queries, and play the moments found."""

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
from sdst.inference.commands import add_backbone_options, add_checkpoint_option, choose_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

ADDRESS = "127.0.0.1"
"""Only this machine can connect, because the page has no access control."""


def main(argv: Sequence[str]) -> int:
    """Print the page's address and serve until interrupted.

    Raises:
        UserError: A package is missing, a file cannot be used, or the port is in use.
    """
    args = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sdst-serve-") as uploads:
        # Set before Gradio is imported, because it reads them then and when components are created.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads}
        try:
            import uvicorn

            from sdst.inference.video import check_backbone_options, load_grounder
            from sdst.serve.app import AnswerService, make_app
        except ImportError as error:
            raise UserError(
                f"sdst serve: {error.name} is not installed; pip install 'sdst[serve]'"
            ) from error
        check_backbone_options(args)
        choose_checkpoint(args)
        with _listen(args.port) as listener:
            app = make_app(AnswerService(load_grounder(args)), args.max_upload * 2**20)
            sys.stdout.write(f"http://{ADDRESS}:{listener.getsockname()[1]}/\n")
            sys.stdout.flush()
            # Open connections must not keep the server from stopping.
            config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM also deletes uploads
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listen(port: int) -> socket.socket:
    """A socket on :data:`ADDRESS`, opened before the model is loaded so that a port in use fails early."""
    try:
        return socket.create_server((ADDRESS, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"sdst serve: port {port} cannot be used ({error}); choose another --port") from error


def _parser() -> Parser:
    parser = Parser(
        prog="sdst serve",
        description="Serve a web page that only this machine can reach: upload a video, type queries, see their "
        "moments on a timeline and play them. Uploads are deleted when the server stops.",
    )
    add = parser.add_argument
    add_checkpoint_option(parser)
    add("--port", type=at_least(0), default=7860, help="port; 0 for any free port (default: %(default)s)")
    add(
        "--max-upload",
        type=at_least(1),
        default=2048,
        metavar="MIB",
        help="maximum size of a video in MiB (default: %(default)s)",
    )
    add_backbone_options(parser)
    return parser
