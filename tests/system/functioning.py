"""The functions' own WSGI application, as a server of this process, with what it was asked and answered."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from functions import faas
from tests.system.verbs import User

TOKEN = "planted-function-token-0123456789-abcdefgh"


class Function:
    """The application, and what it was asked and answered."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str | None, bytes]] = []
        self.answers: list[int] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
        self.asked.append((environ.get("HTTP_AUTHORIZATION"), body))

        def started(status: str, headers: list[tuple[str, str]]) -> None:
            self.answers.append(int(status.partition(" ")[0]))
            start_response(status, headers)

        return faas.wsgi({**environ, "wsgi.input": io.BytesIO(body)}, started)


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def functioning(user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    """One with the credentials of `user`, in an environment that only it sees."""
    monkeypatch.setattr(faas, "os", SimpleNamespace(environ={**user.env, "EXOLLAMA_FUNCTION_TOKEN": TOKEN}))
    function = Function()
    with make_server("127.0.0.1", 0, function, Server, Quiet) as server:
        function.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield function
        finally:
            server.shutdown()
            thread.join(10)
