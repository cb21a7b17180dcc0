"""What the contestants forward to: Ollama's answers, as cheaply as a single-threaded server in Python gives them.

`python -m tests.benchmarks.forwarding.answers [CERTIFICATE KEY]` serves on a port of loopback, with TLS where both
files are named, and prints the port. A request with "stream": false gets a short JSON document; any other a stream of
"num_predict" tokens, one HTTP chunk each, `rate` a second, or all at once where that is 0. Each token tells when it was
sent, on the clock that all processes of a machine share. Requests have to bring the key, which contestants add.
"""

from __future__ import annotations

import heapq
import json
import re
import select
import socket
import ssl
import sys
from pathlib import Path
from time import monotonic

KEY = b"0123456789abcdef" * 4
SHORT = json.dumps(
    {
        "model": "llama3.2:3b",
        "created_at": "2026-11-23T12:00:00.123456Z",
        "response": "Rayleigh scattering: air scatters short waves more than long ones. " * 2,
        "done": True,
        "done_reason": "stop",
        "total_duration": 5191566416,
        "load_duration": 2154458,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 383809000,
        "eval_count": 298,
        "eval_duration": 4799921000,
    }
).encode()
_SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(SHORT) + SHORT
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
_TOKEN = (
    b'{"model":"llama3.2:3b","created_at":"2026-11-23T12:00:00Z","response":" sky","done":false,"sent":"%016.6f"}\n'
)
_CHUNK = b"%x\r\n" % len(_TOKEN % 0) + _TOKEN + b"\r\n"
_END = b"0\r\n\r\n"
_KEY = b": " + KEY + b"\r\n"  # whatever case the name is in
_NO_STREAM = re.compile(rb'"stream": ?false')
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


def token() -> bytes:
    """A token as it is sent now: a line of JSON, as a chunk."""
    return _CHUNK % monotonic()


class Client:
    """A connection, and the stream that it gets."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending = b""
        self.left = 0
        self.period_s = 0.0

    def send(self, data: bytes) -> None:
        """Send all of it: who measures lags must not wait for whoever reads slowly."""
        if self.sock.send(data) != len(data):
            raise BufferError("a contestant reads so slowly that nothing more can be sent to it")

    def requests(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The requests that are complete with these bytes: heads, bodies."""
        data = self.pending + data if self.pending else data
        found = []
        while (end := data.find(b"\r\n\r\n") + 4) >= 4:
            length = _LENGTH.search(data, 0, end)
            whole = end + int(length[1]) if length else end
            if len(data) < whole:
                break
            found.append((data[:end], data[end:whole]))
            data = data[whole:]
        self.pending = data
        return found


class Server:
    """One loop over all connections and over the tokens that are due."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._clients: dict[int, Client] = {}
        self._due: list[tuple[float, int]] = []  # when, and which connection's file descriptor

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Serve for ever."""
        listener = self._listener.fileno()
        waiting = [self._epoll.fileno()]
        while True:
            # epoll itself rounds up to milliseconds, which would send tokens in bursts.
            timeout = max(0.0, self._due[0][0] - monotonic()) if self._due else None
            select.select(waiting, [], [], timeout)
            for fd, _ in self._epoll.poll(0):
                if fd == listener:
                    self._accept()
                else:
                    self._read(self._clients[fd])
            if self._due:
                self._send_due()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context:
            sock.settimeout(5)
            sock = self._context.wrap_socket(sock, server_side=True)
        sock.setblocking(False)
        self._clients[sock.fileno()] = Client(sock)
        self._epoll.register(sock, select.EPOLLIN)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(1 << 16)
        except ssl.SSLWantReadError:
            return
        except OSError:
            data = b""
        if not data:
            self._epoll.unregister(client.sock)
            del self._clients[client.sock.fileno()]
            client.sock.close()
            client.left = 0
            return
        for head, body in client.requests(data):
            if _KEY not in head:
                client.send(_REFUSED)
            elif _NO_STREAM.search(body):
                client.send(_SHORT)
            else:
                self._stream(client, json.loads(body)["options"])

    def _stream(self, client: Client, options: dict[str, float]) -> None:
        number, rate = int(options["num_predict"]), options["rate"]
        if not rate:
            client.send(_STREAM + b"".join(token() for _ in range(number)) + _END)
            return
        client.send(_STREAM)
        client.left, client.period_s = number, 1 / rate
        # On a grid that all streams share, `phase` of a period behind its lines: evenly apart, whenever they began.
        first = (monotonic() // client.period_s + 1 + options["phase"]) * client.period_s
        heapq.heappush(self._due, (first, client.sock.fileno()))

    def _send_due(self) -> None:
        due, now = self._due, monotonic()
        while due and due[0][0] <= now:
            when, fd = due[0]
            client = self._clients.get(fd)
            if client is None or not client.left:
                heapq.heappop(due)
                continue
            client.left -= 1
            client.send(token() if client.left else token() + _END)
            if client.left:
                heapq.heapreplace(due, (when + client.period_s, fd))
            else:
                heapq.heappop(due)


def main() -> None:
    context = None
    if files := sys.argv[1:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(Path(files[0]), Path(files[1]))
    server = Server(context)
    print(json.dumps({"port": server.port}), flush=True)
    server.serve()


if __name__ == "__main__":
    main()
