"""`Send` over the standard library's http.client: one request as bytes in, one answer as bytes out.

The seam (`Request`, `Response`, `Disconnected`) is defined here; `functions.transport` fills it with urllib3, and
tests with whatever they like. A `Send` never retries, follows no redirect and reads at most MAX_BODY. Imports nothing
of the project.
"""

import http.client
import ssl
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_BODY = 64 << 20
"""Bytes; ten thousand instances with all their labels are about a fifth of it."""


class Request(NamedTuple):
    """One HTTP request, ready to be sent as it is; `timeout_s` bounds each wait on the socket."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float


class Response(NamedTuple):
    """One HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Disconnected(Exception):
    """No answer came. `sent` is False only where the request certainly never reached the server."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


Send = Callable[[Request], Response]


def http_client_send(request: Request) -> Response:
    """Send one request over a connection of its own. Raises Disconnected."""
    parts = urlsplit(request.url)
    port = parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname or "", port, timeout=request.timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", port, timeout=request.timeout_s)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise Disconnected(f"cannot connect to {parts.netloc}: {error}", sent=False) from error
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request(request.method, target, body=request.body or None, headers=dict(request.headers))
            answer = connection.getresponse()
            body = answer.read(MAX_BODY + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Disconnected(f"no answer from {parts.netloc}: {type(error).__name__} {error}", sent=True) from error
        if answer.length:  # read(n) does not raise for a body that is cut short
            raise Disconnected(f"the answer from {parts.netloc} was cut off", sent=True)
        if len(body) > MAX_BODY:
            raise Disconnected(f"the answer from {parts.netloc} is over {MAX_BODY >> 20} MiB", sent=True)
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, body)
    finally:
        connection.close()
