"""AWS Lambda's runtime API on a port of loopback: hands out one event to a runtime, and notes when its answer came.

The paths and headers are those of docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from uuid import uuid4

CALL_S = 55.0
"""How long the one call may take, as the platform tells it."""
_INVOCATION = "/2018-06-01/runtime/invocation/"


class RuntimeApi(ThreadingHTTPServer):
    """One event for one runtime. `answered` is set once its answer is there; then `answered_at` says when it came."""

    daemon_threads = True

    def __init__(self, event: object) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.event = json.dumps(event).encode()
        self.call_id = str(uuid4())
        self.handed_out = False
        self.answered = Event()
        self.answered_at = 0.0
        self.answered_to = ""
        self.answer: Any = None
        self.over = Event()

    @property
    def address(self) -> str:
        """AWS_LAMBDA_RUNTIME_API."""
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that ended with their process."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RuntimeApi

    def do_GET(self) -> None:
        if self.server.handed_out:
            self.server.over.wait()  # there is no second event: the runtime waits for it until it is ended
            self.close_connection = True
            return
        self.server.handed_out = True
        known = self.path == f"{_INVOCATION}next"
        headers = {
            "Lambda-Runtime-Aws-Request-Id": self.server.call_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + CALL_S) * 1e3)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-2:000000000000:function:reap",
        }
        self._send(200 if known else 404, headers if known else {}, self.server.event if known else b"{}")

    def do_POST(self) -> None:
        arrived = time.perf_counter()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.answered_at = arrived
        self.server.answered_to = self.path
        self.server.answer = json.loads(body)
        self._send(202, {}, b"{}")
        self.server.answered.set()

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: the table is the output."""


@contextmanager
def runtime_api(event: object) -> Iterator[RuntimeApi]:
    """Serve it for the duration."""
    with RuntimeApi(event) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
