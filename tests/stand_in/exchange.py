"""One request to the stand-in and its answer: reading, streaming, noticing that the client has gone, the log of ends.

Neighbours: __main__.py says which deed a path gets; the deeds are in library.py, native.py, openai.py, responses.py.
"""

from __future__ import annotations

import json
import math
import select
import socketserver
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.stand_in.controls import Controls
from tests.stand_in.models import Body, Models

NDJSON = "application/x-ndjson"
PIECE = 65536


class Cut(Exception):
    """The stream ends here, without its end, as a control says."""


class Left(Exception):
    """The client has gone."""


class Refused(Exception):
    """The answer is an error with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Exchange(BaseHTTPRequestHandler):
    """What a deed is given: the request and the means to answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        self.controls = Controls.read(self.server.control)
        self.route = self.path.partition("?")[0]
        self._rest = self._pieces()
        end = "done"
        try:
            while self.controls.silent:
                self.pause(0.05)
                self.controls = Controls.read(self.server.control)
            try:
                self.server.deed("GET" if self.command == "HEAD" else self.command, self.route)(self)
            except Refused as refused:
                self.refuse(refused.status, str(refused))
            for _ in self._rest:  # what a deed left unread is not the connection's next request
                pass
        except Cut:
            end = "cut"
        except (Left, OSError):
            end = "left"
        self.close_connection = self.close_connection or end != "done"
        self.server.note(self.headers.get("X-Request-Id"), self.route, end)

    do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = _serve

    # -- the request

    @property
    def models(self) -> Models:
        return self.server.models

    def body(self) -> Body:
        """The request's object; without a body, an empty one."""
        try:
            given = json.loads(b"".join(self.pieces()) or b"{}")
        except ValueError as error:
            raise Refused(400, str(error)) from None
        if not isinstance(given, dict):
            raise Refused(400, "json: cannot unmarshal what is no object")
        return given

    def pieces(self) -> Iterator[bytes]:
        """The request's body, whatever its length, never more than a piece of it in memory."""
        return self._rest

    def _pieces(self) -> Iterator[bytes]:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))
            return
        while size := self._chunk_size():
            yield from self._exactly(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass

    def _chunk_size(self) -> int:
        line = self.rfile.readline()
        if not line:
            raise Left
        return int(line.split(b";")[0], 16)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.rfile.read1(min(size, PIECE))
            if not piece:
                raise Left
            size -= len(piece)
            yield piece

    def wanted(self, name: object) -> str:
        """The full name of a model that is there. Raises Refused."""
        full = Models.full(str(name or ""))
        if full not in self.models.names():
            raise Refused(404, f"model '{name or ''}' not found")
        return full

    # -- the answer

    def json(self, status: int, value: object) -> None:
        """Answer with one object, or with nothing where it is None."""
        self.raw(status, "application/json; charset=utf-8", b"" if value is None else json.dumps(value).encode())

    def refuse(self, status: int, message: str) -> None:
        self.json(status, self.error(status, message))

    def error(self, status: int, message: str) -> Body:
        """An error in the dialect of the path."""
        if not self.path.startswith("/v1/"):
            return {"error": message}
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def raw(self, status: int, content_type: str, body: bytes) -> None:
        self._head(status, content_type, len(body))
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def stream(self, lines: Iterator[bytes], content_type: str) -> None:
        """Answer line by line. The head goes out with the first, so that what fails before is an error's answer."""
        first = next(lines, b"")
        self._head(200, content_type, None)
        self._chunk(first)
        for line in lines:
            self._chunk(line)
        self.wfile.write(b"0\r\n\r\n")

    def ndjson(self, values: Iterator[Body], *, streamed: bool, whole: Callable[[list[Body]], Body]) -> None:
        """Answer with a stream of objects, or with the one that `whole` makes of them."""
        if streamed:
            self.stream((json.dumps(value).encode() + b"\n" for value in values), NDJSON)
            return
        all_ = list(values)
        if problem := next((value["error"] for value in all_ if "error" in value), None):
            raise Refused(500, problem)
        self.json(200, whole(all_))

    def _head(self, status: int, content_type: str, length: int | None) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _chunk(self, line: bytes) -> None:
        if line:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))

    def pause(self, seconds: float) -> None:
        """Sleep. Raises Left as soon as the client has gone, for which Ollama stops as well."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)  # unlike a look at what is readable: behind unread bytes too
        until = time.monotonic() + seconds
        while True:
            if poll.poll(max(0, math.ceil((until - time.monotonic()) * 1000))):
                raise Left
            if time.monotonic() >= until:
                return


Deed = Callable[[Exchange], None]


class Server(socketserver.ThreadingTCPServer):
    """Listens, and knows what the exchanges share. A path that ends in * stands for any last segment."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        *,
        deeds: Mapping[tuple[str, str], Deed],
        models: Models,
        control: Path,
        version: str,
    ) -> None:
        self.models = models
        self.control = control
        self.version = version
        self._deeds = deeds
        self._log = control.with_name("requests.log")
        super().__init__(address, Exchange)

    def deed(self, method: str, path: str) -> Deed:
        found = self._deeds.get((method, path)) or self._deeds.get((method, path.rpartition("/")[0] + "/*"))
        return found or _unknown

    def note(self, id_: str | None, path: str, end: str) -> None:
        """Log how a request ended: `ID PATH END`, where END is `done`, `left` (the client went away) or `cut`."""
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{'-'.join((id_ or '').split()) or '-'} {path} {end}\n")

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


def _unknown(exchange: Exchange) -> None:
    raise Refused(404, "404 page not found")
