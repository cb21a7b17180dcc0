"""A provision function as a URL, as EXOLLAMA_PROVISION_URL names one: 202 until the instance is ready, then its result.

It has the credentials; whoever asks has a token. `asked` lists what came, `answers` the statuses that went.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from client.boot import Board
from client.errors import ExollamaError
from client.settings import Secret, Settings
from functions import provision


class Handler(BaseHTTPRequestHandler):
    server: ProvisionFunction

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.headers["Authorization"], body))
        status, said = self.server.answer(self.headers["Authorization"], json.loads(body))
        self.server.answers.append(status)
        raw = json.dumps(said).encode()
        self.send_response(status)
        if status == 202:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: object) -> None:
        pass


class ProvisionFunction(ThreadingHTTPServer):
    """One on a loopback port, for as long as the `with` block takes."""

    daemon_threads = True
    patience_s: ClassVar[float] = 0.2  # how long it works on an answer before it says 202

    def __init__(self, settings: Settings, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str | None, bytes]] = []
        self.answers: list[int] = []
        self._settings = settings
        self._token = token
        self._board = Board()
        self._lock = threading.Lock()
        self._work: threading.Thread | None = None
        self._outcome: dict[str, Any] | ExollamaError | None = None
        self._serving = threading.Thread(target=self.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/provision"

    def __enter__(self) -> ProvisionFunction:
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._serving.join(10)
        if self._work:
            self._work.join(30)
        self.server_close()

    def answer(self, authorization: str | None, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body; the work goes on between two questions."""
        if authorization != f"Bearer {self._token}":
            return 401, {"error": "wrong token"}
        if asked.get("action") != "provision":
            return 400, {"error": "the action is provision"}
        with self._lock:
            if self._work is None:
                self._outcome = None
                self._work = threading.Thread(target=self._provision)
                self._work.start()
            work = self._work
            work.join(self.patience_s)
            if work.is_alive():
                return 202, {"phase": self._board.phase, "percent": self._board.percent}
            self._work = None
        if isinstance(self._outcome, ExollamaError):
            return 500, {"error": str(self._outcome)}
        assert self._outcome
        return 200, self._outcome

    def _provision(self) -> None:
        try:
            result = provision.run(self._settings, progress=self._board)
        except ExollamaError as failure:
            self._outcome = failure
            return
        key = result["key"]
        assert isinstance(key, Secret)
        self._outcome = {**result, "key": key.reveal()}
