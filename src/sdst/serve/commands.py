"""``sdst serve``: a local web page to upload a video, enter queries, and play the moments found."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
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
    try:
        import python_multipart  # noqa: F401  # Starlette reads uploads with it

        from sdst.inference.video import check_backbone_options, load_grounder
        from sdst.serve.about import describe_model
        from sdst.serve.app import make_app
        from sdst.serve.library import VideoLibrary
        from sdst.serve.server import Server
    except ImportError as error:
        raise UserError(f"sdst serve: {error.name} is not installed; pip install 'sdst[serve]'") from error
    check_backbone_options(args)
    choose_checkpoint(args)
    with _listen(args.port) as listener:
        grounder = load_grounder(args)
        about = describe_model(args.checkpoint, grounder)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM also deletes uploads
        with (
            contextlib.suppress(KeyboardInterrupt),
            tempfile.TemporaryDirectory(prefix="sdst-serve-") as uploads,
            contextlib.closing(VideoLibrary(grounder, Path(uploads), args.max_upload * 2**20)) as library,
        ):
            _announce(listener.getsockname()[1])
            Server(make_app(library, about), library).run(sockets=[listener])
    return 0


def _announce(port: int) -> None:
    """Print the page's address, and how to reach it from another machine if this one has no display."""
    sys.stdout.write(f"http://{ADDRESS}:{port}/\n")
    sys.stdout.flush()
    if "SSH_CONNECTION" in os.environ or not os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
        sys.stderr.write(
            f"to open it on your own machine, run there: ssh -L {port}:{ADDRESS}:{port} {socket.gethostname()}\n"
        )


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
