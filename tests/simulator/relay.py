"""Relays around one real instance, so that faults can befall every call of its endpoint.

    client → Front → nginx → Relay → the agent, or Ollama

Every answer is the agent's or Ollama's own, byte for byte, but where a fault says otherwise; faults.py lists the kinds.
Neighbours: lodging.py puts them in place. Imports nothing of the project.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.simulator.faults import Fault
from tests.simulator.records import Call
from tests.simulator.server import PROXY_PAGE, Api

OPERATIONS = {
    "agent-proof": "GET /.exollama/proof",
    "agent-status": "GET /.exollama/status",
    "agent-touch": "POST /.exollama/touch",
    "agent-fence": "PUT /.exollama/fence/[^/]+",
    "agent-commit": "POST /.exollama/fence/[^/]+/commit",
    "agent-unfence": "DELETE /.exollama/fence/[^/]+",
    "ollama-show": "POST /api/show",
}
PORT = 11435
REASONS = {200: "OK", 409: "Conflict", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}


def operation(method: str, path: str) -> str | None:
    """The name of an endpoint's call; None for one that has none."""
    asked = f"{method} {path}"
    return next((name for name, pattern in OPERATIONS.items() if re.fullmatch(pattern, asked)), None)


class Front:
    """Passes TCP connections on to nginx, as they are; `cut` ends them all, and a dark one accepts none."""

    def __init__(self, address: str, behind: str) -> None:
        self.address = address
        self.dark = True
        self._behind = behind
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server((address, PORT), backlog=64)
        self._threads = [threading.Thread(target=self._accept, name="simulator-front", daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """End every connection, in both directions."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.dark = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in list(self._threads):
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.dark:
                client.close()
                continue
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            thread = threading.Thread(target=self._pass_on, args=(client,), name="simulator-front", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection((self._behind, PORT)) as server, contextlib.suppress(OSError):
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = {client: server, server: client}
            with self._lock:
                if self.dark:  # since it was accepted: no cut would have ended it
                    return
                self._open |= pair.keys()
            try:
                while all(self._moved(one, pair[one]) for one in select.select(list(pair), [], [])[0]):
                    pass
            finally:
                with self._lock:
                    self._open -= pair.keys()

    @staticmethod
    def _moved(source: socket.socket, target: socket.socket) -> bool:
        data = source.recv(1 << 16)
        target.sendall(data)
        return bool(data)


class Relay(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Sits where the agent or Ollama listened; `connect` reaches that one in its new place."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(
        self, where: str | tuple[str, int], api: Api, zone: str, front: Front, connect: Callable[[], Any]
    ) -> None:
        self.address_family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
        self.api = api
        self.zone = zone
        self.front = front
        self.connect = connect
        super().__init__(where, Handler)  # type: ignore[arg-type] # a path, where it is a Unix socket
        if isinstance(where, str):
            os.chmod(where, 0o666)  # nginx's workers are another user
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="simulator-relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # somebody went away


class Handler(socketserver.StreamRequestHandler):
    """One request on one connection, as nginx makes them."""

    server: Relay

    def handle(self) -> None:
        head = b""
        while (line := self.rfile.readline()).strip():
            head += line
        if not head:
            return
        length = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
        body = self.rfile.read(int(length[1])) if length else b""
        method, path, _ = head.decode("latin-1").split(" ", 2)
        name = operation(method, path)
        fault = self.server.api.faults.take(name, self.server.zone) if name else None
        answer = None if fault and self._instead(fault) else self._own(head + b"\r\n" + body)
        if name:
            self._keep(name, method, path, fault, answer)
        if fault and "then" in fault.options:
            fault.options["then"]()
        self._reply(fault, answer)

    def _own(self, request: bytes) -> bytes:
        """What is behind answers."""
        answer = b""
        with self.server.connect() as link:
            link.sendall(request)
            while data := link.recv(1 << 16):
                answer += data
        return answer

    @staticmethod
    def _instead(fault: Fault) -> bool:
        """Whether the deed is not to be done."""
        return fault.kind in ("reset", "hang", "html", "silent", "dark") or fault.kind.isdigit()

    def _keep(self, name: str, method: str, path: str, fault: Fault | None, answer: bytes | None) -> None:
        self.server.api.calls.append(
            Call(
                operation_id=name,
                zone=self.server.zone,
                method=method,
                path=path,
                query="",
                body=None,
                status=int(answer.split(b" ", 2)[1]) if answer else None,
                fault=fault.kind if fault else None,
                signed=False,
                at=time.monotonic(),
            )
        )

    def _reply(self, fault: Fault | None, answer: bytes | None) -> None:
        kind = fault.kind if fault else ""
        if kind == "dark":
            self.server.front.dark = True
        if kind in ("lost", "reset", "dark"):
            self.server.front.cut()
        elif kind == "hang":
            self.server.api.closing.wait(60)
        elif kind == "html":
            self._send(502, PROXY_PAGE.encode(), "Content-Type: text/html\r\n")
        elif kind == "shape":
            self._send(_status(answer), b'{"something": "else"}')
        elif kind == "garbage":
            self._send(_status(answer), b'{"idle_s": 12\x00')
        elif kind.isdigit():
            mark = "X-Exollama: draining\r\nRetry-After: 5\r\n" if kind == "503" else ""
            self._send(int(kind), json.dumps({"error": f"the simulator answers {kind}"}).encode(), mark)
        elif answer and kind != "silent":
            self.wfile.write(answer)

    def _send(self, status: int, body: bytes, more: str = "") -> None:
        head = f"HTTP/1.0 {status} {REASONS.get(status, 'Odd')}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        self.wfile.write(head.encode() + body)


def _status(answer: bytes | None) -> int:
    status = int(answer.split(b" ", 2)[1]) if answer else 200
    return 200 if status == 204 else status
