"""Requests to a local server with any headers, and forms with files, without further packages."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "a-boundary-of-tests"
SECONDS = 60
"""Time within which the server must answer."""


@dataclass(frozen=True)
class Answer:
    """An answer of the server; header names are in lower case."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def request(
    url: str, method: str = "GET", content: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Send one request; ``headers`` may replace the automatic ones, such as Host."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=SECONDS)
    path = address.path + (f"?{address.query}" if address.query else "")
    try:
        connection.request(method, path, content, headers or {})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


def post_json(url: str, content: Any) -> Answer:
    """Send a value as JSON."""
    return request(url, "POST", json.dumps(content).encode(), {"Content-Type": "application/json"})


def post_form(
    url: str, file: tuple[str, bytes] | None, queries: list[str], headers: dict[str, str] | None = None
) -> Answer:
    """Send a form with the file (name, content) ``video`` and fields ``query``."""
    parts = [f'form-data; name="query"\r\n\r\n{query}'.encode() for query in queries]
    if file is not None:
        name = file[0].replace("\\", "\\\\").replace('"', "%22")
        parts.append(f'form-data; name="video"; filename="{name}"\r\n\r\n'.encode() + file[1])
    body = b"".join(f"--{BOUNDARY}\r\nContent-Disposition: ".encode() + part + b"\r\n" for part in parts) + (
        f"--{BOUNDARY}--\r\n".encode()
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return request(url, "POST", body, kind | (headers or {}))
