"""AWS Lambda's runtime API on a loopback port: hands out one invocation after another, and takes what comes.

Paths and headers are those of docs.aws.amazon.com, "Using the Lambda runtime API for custom runtimes" (2018-06-01).
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

PREFIX: Final = "/2018-06-01/runtime"
ARN: Final = "arn:aws:lambda:eu-central-1:123456789012:function:exollama"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an invocation: `response` or `error`, the JSON that was sent, and when it came (perf_counter)."""

    kind: str
    said: Any
    at: float


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RuntimeApi

    def do_GET(self) -> None:
        assert self.path == f"{PREFIX}/invocation/next", self.path
        invocation = self.server.take()
        if invocation is None:
            self.close_connection = True
            return
        request_id, deadline_ms, event = invocation
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Lambda-Runtime-Aws-Request-Id", request_id)
        self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline_ms))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", ARN)
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
        self.send_header("Content-Length", str(len(event)))
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self) -> None:
        arrived = time.perf_counter()
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        _, _, rest = self.path.partition(f"{PREFIX}/")
        of, _, kind = rest.removeprefix("invocation/").rpartition("/")  # of: the request's id, or init
        self.server.outcomes.put((of, Outcome(kind, json.loads(raw), arrived)))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class RuntimeApi(ThreadingHTTPServer):
    """For one runtime; `clock` is what it reads its deadlines on, in seconds."""

    daemon_threads = True

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.outcomes: queue.Queue[tuple[str, Outcome]] = queue.Queue()
        self.asked = threading.Event()
        """Set once the runtime is up, and asks for an invocation."""
        self._clock = clock
        self._invocations: queue.Queue[tuple[str, int, bytes] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that ended with their process."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def take(self) -> tuple[str, int, bytes] | None:
        """The next invocation, however long that takes; None once it is closed."""
        self.asked.set()
        return self._invocations.get()

    def invoke(self, event: Any, remaining_s: float) -> Outcome:
        """Invoke the function, with so much time until its deadline."""
        with self._lock:
            request_id = str(uuid.uuid4())
            deadline_ms = int((self._clock() + remaining_s) * 1000)
            self._invocations.put((request_id, deadline_ms, json.dumps(event).encode()))
            of, outcome = self.outcomes.get(timeout=60)
            assert of == request_id, outcome
            return outcome

    def close(self) -> None:
        self._invocations.put(None)
        self.shutdown()
        self._thread.join(10)
        self.server_close()
