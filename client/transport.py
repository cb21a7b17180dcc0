"""`Send` over the standard library's http.client: one request as bytes in, one answer as bytes out.

The seam (`Request`, `Response`, `Disconnected`) is defined here; `functions.transport` fills it with urllib3, and
tests with whatever they like. A `Send` never retries, follows no redirect and reads at most MAX_BODY. Imports nothing
of the project.
"""

import functools
import http.client
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

MAX_BODY = 64 << 20
"""Bytes; ten thousand instances with all their labels are about a fifth of it."""


class Request(NamedTuple):
    """One HTTP request, ready to be sent as it is; `timeout_s` bounds each wait on the socket.

    A create call's body carries the endpoint's key, so neither it nor the headers show in a repr.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float

    def __repr__(self) -> str:
        return f"Request({self.method} {self.url})"


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


def settled(outcome: Response | Disconnected) -> Response:
    """Return or raise an outcome: out here, so that no frame that held a body with a key hangs on to the error."""
    if isinstance(outcome, Disconnected):
        raise outcome
    return outcome


def once(make: Callable[[], T]) -> Callable[[], T]:
    """What makes a thing at the first call, in whichever thread that is, and returns the same ever after."""
    made, making = functools.cache(make), threading.RLock()  # a signal may be handled in the middle, and come here

    def get() -> T:
        with making:
            return made()

    return get


tls_context = once(ssl.create_default_context)
"""What trusts whom the system trusts. Reading that takes some 50 ms, much longer than a request."""


def http_client_send(request: Request) -> Response:
    """Send one request over a connection of its own. Raises Disconnected."""
    return settled(_outcome(request))


def _outcome(request: Request) -> Response | Disconnected:
    parts = urlsplit(request.url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, timeout=request.timeout_s, context=tls_context())
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=request.timeout_s)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    sent = False
    try:
        connection.connect()
        sent = True
        connection.request(request.method, target, body=request.body or None, headers=dict(request.headers))
        answer = connection.getresponse()
        body = answer.read(MAX_BODY + 1)
    except (OSError, http.client.HTTPException) as error:
        what = "no answer from" if sent else "cannot connect to"
        return Disconnected(f"{what} {parts.netloc}: {type(error).__name__} {error}", sent=sent)
    finally:
        connection.close()
    if len(body) > MAX_BODY:
        return Disconnected(f"the answer from {parts.netloc} is over {MAX_BODY >> 20} MiB", sent=True)
    if answer.length:  # read(n) does not raise for a body that is cut short
        return Disconnected(f"the answer from {parts.netloc} was cut off", sent=True)
    return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, body)
