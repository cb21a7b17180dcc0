"""Who asks: loads in a process of their own, each printed as one JSON object. Standard library only.

`python -m tests.benchmarks.forwarding.calls LOAD PORT [options]`. The loads: `rate` asks over and over on so many
connections, `streams` reads so many streams at once, `first` times the first token over several ports by turns.
`--direct` says that nobody in between adds the key, `--tls` that the port speaks TLS. What is not as it should be
(another status, tokens that are missing) ends it with an error.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import select
import socket
import ssl
import statistics
from pathlib import Path
from time import monotonic
from typing import Any

from tests.benchmarks.forwarding.answers import KEY

PATIENCE_S = 30.0
SETTLING_S = 0.5
"""How long the beginning of streams is left out: all of them begin at once."""
_SENT = re.compile(rb'"sent":"([0-9.]+)"}\n')
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_END = b"0\r\n\r\n"


def request(*, direct: bool, **options: float) -> bytes:
    """A request of about 300 bytes of JSON: for a short document, or for a stream if there are `options`."""
    body: dict[str, Any] = {
        "model": "llama3.2:3b",
        "prompt": "Why is the sky blue? Explain it to somebody who knows no physics, in three sentences at most. " * 2,
        "stream": bool(options),
        "options": options or {"temperature": 0.7, "num_predict": 128},
        "keep_alive": "5m",
    }
    payload = json.dumps(body).encode()
    key = b"X-Ollama-Key: " + KEY + b"\r\n" if direct else b""
    return (
        b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nUser-Agent: ollama-python/0.6.0\r\nAccept: */*\r\n"
        b"Content-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (key, len(payload), payload)
    )


def connect(port: int, *, tls: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    return sock


def receive(sock: socket.socket) -> bytes:
    """What has arrived; nothing where that is only a part of a TLS record."""
    try:
        data = sock.recv(1 << 16)
    except (ssl.SSLWantReadError, BlockingIOError):
        return b""
    if not data:
        raise ConnectionError("a connection was closed")
    return data


def cpu_s(pid: int) -> float:
    """What a process has used of a processor so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waited_s(pid: int) -> float:
    """How long a process could have run so far while somebody else had its processor, in seconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9


class Connections:
    """Connections and an epoll over them."""

    def __init__(self, port: int, number: int, *, tls: bool) -> None:
        self.sockets = [connect(port, tls=tls) for _ in range(number)]
        self.by_fd = {sock.fileno(): sock for sock in self.sockets}
        self._epoll = select.epoll()
        for sock in self.sockets:
            sock.setblocking(False)
            self._epoll.register(sock, select.EPOLLIN)

    def ready(self) -> list[tuple[int, int]]:
        if found := self._epoll.poll(PATIENCE_S):
            return found
        raise TimeoutError(f"nothing arrived for {PATIENCE_S:.0f} s")


def size(answer: bytes) -> int | None:
    """How many bytes an answer has that begins so; None where its head has not arrived."""
    end = answer.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    length = _LENGTH.search(answer, 0, end)
    if not answer.startswith(b"HTTP/1.1 200 ") or not length:
        raise ValueError(f"an answer begins {answer[:200]!r}")
    return end + int(length[1])


def rate(args: argparse.Namespace) -> dict[str, Any]:
    """Requests per second, each sent once the answer before has arrived; what each costs a process (`--pid`)."""
    asked = request(direct=args.direct)
    connections = Connections(args.port, args.connections, tls=args.tls)
    _answers(connections, asked, 0.0)  # one each: connections behind are made
    before = (cpu_s(args.pid), waited_s(args.pid)) if args.pid else (0.0, 0.0)
    answers, took = _answers(connections, asked, args.seconds)
    found = {"per_second": answers / took, "took_s": took}
    if args.pid:
        found |= {"cpu_each_s": (cpu_s(args.pid) - before[0]) / answers, "waited_s": waited_s(args.pid) - before[1]}
    return found


def _answers(connections: Connections, asked: bytes, seconds: float) -> tuple[int, float]:
    """Ask over and over for so long; how many answers came meanwhile, and how long that was."""
    got, by_fd, ready = dict.fromkeys(connections.by_fd, b""), connections.by_fd, connections.ready
    answers, counted, usual, under_way = 0, 0, 0, len(got)
    asking, took, began = True, 0.0, monotonic()
    for sock in connections.sockets:
        sock.send(asked)
    while under_way:
        for fd, _ in ready():
            sock = by_fd[fd]
            data = receive(sock)
            if got[fd] or len(data) != usual or not data.startswith(b"HTTP/1.1 200 "):
                data = got[fd] + data
                expected = size(data)
                if expected is None or len(data) < expected:
                    got[fd] = data
                    continue
                if len(data) > expected:
                    raise ValueError("an answer is longer than it says")
                got[fd], usual = b"", expected
            answers += 1
            if asking:
                sock.send(asked)
            else:
                under_way -= 1
        if asking and (now := monotonic()) - began >= seconds:
            asking, counted, took = False, answers, now - began
    return counted, took


def streams(args: argparse.Namespace) -> dict[str, Any]:
    """Lags of tokens in seconds, and what a process (`--pid`) used of a processor for each."""
    connections = Connections(args.port, args.connections, tls=args.tls)
    warm_up = request(direct=args.direct, num_predict=1, rate=0)
    for sock in connections.sockets:
        sock.send(warm_up)  # all at once: as many connections behind
    _read(connections)
    number = int(args.seconds * args.rate)
    asked = [
        request(direct=args.direct, num_predict=number, rate=args.rate, phase=at / args.connections)
        for at in range(args.connections)
    ]
    used, waited = (cpu_s(args.pid), waited_s(args.pid)) if args.pid else (0.0, 0.0)
    began = monotonic()
    for sock, one in zip(connections.sockets, asked, strict=True):
        sock.send(one)
    pieces = _read(connections)
    found: dict[str, Any] = {"took_s": monotonic() - began}
    if args.pid:
        found |= {"cpu_s": cpu_s(args.pid) - used, "waited_s": waited_s(args.pid) - waited, **_memory(args.pid)}
    found |= _lags(pieces, since=began + SETTLING_S)
    total = number * args.connections
    if found["tokens"] != total:
        raise ValueError(f"{found['tokens']} tokens of {total} arrived")
    return {**found, "cpu_per_token_s": found.get("cpu_s", 0.0) / total}


def _read(connections: Connections) -> dict[int, list[tuple[float, bytes]]]:
    """What each connection gets until its answer ends, in pieces, each with the time of its arrival."""
    pieces: dict[int, list[tuple[float, bytes]]] = {fd: [] for fd in connections.by_fd}
    left, by_fd, ready = len(pieces), connections.by_fd, connections.ready
    while left:
        for fd, _ in ready():
            data = receive(by_fd[fd])
            pieces[fd].append((monotonic(), data))
            if data.endswith(_END):
                left -= 1
    return pieces


def _lags(pieces: dict[int, list[tuple[float, bytes]]], *, since: float) -> dict[str, Any]:
    lags, tokens, reads = [], 0, 0
    for mine in pieces.values():
        rest = b""
        for arrived, data in mine:
            rest += data
            reads += 1
            end = 0
            for found in _SENT.finditer(rest):
                tokens += 1
                end = found.end()
                if (sent := float(found[1])) > since:
                    lags.append(arrived - sent)
            rest = rest[end:]
    lags.sort()
    return {"p50_s": lags[len(lags) // 2], "p99_s": lags[len(lags) * 99 // 100], "tokens": tokens, "reads": reads}


def _memory(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        f"{name.lower()}_mb": int(found[1]) * 1024 / 1e6
        for name in ("VmRSS", "VmHWM")
        if (found := re.search(rf"{name}:\s+([0-9]+) kB", status))
    }


def first(args: argparse.Namespace) -> dict[str, Any]:
    """Medians of the time to the first token: directly, and what each contestant adds to that; by turns."""
    wires = [(connect(args.port, tls=args.tls), request(direct=True, num_predict=1, rate=0))]
    wires += [(connect(port, tls=False), request(direct=False, num_predict=1, rate=0)) for port in args.through]
    times: list[list[float]] = [[] for _ in wires]
    for turn in range(args.rounds + 20):
        for at in range(len(wires)) if turn % 2 else reversed(range(len(wires))):
            took = _first_token(*wires[at])
            if turn >= 20:  # before that, everything is warmed up
                times[at].append(took)
    direct, *others = times
    added = [[one - base for one, base in zip(mine, direct, strict=True)] for mine in others]
    return {
        "direct_s": statistics.median(direct),
        "added_s": [statistics.median(mine) for mine in added],
        "quartiles_s": [statistics.quantiles(mine, n=4)[::2] for mine in added],
    }


def _first_token(sock: socket.socket, asked: bytes) -> float:
    began = monotonic()
    sock.send(asked)
    answer = receive(sock)
    while not _SENT.search(answer):
        answer += receive(sock)
    took = monotonic() - began
    while not answer.endswith(_END):
        answer += receive(sock)
    return took


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.benchmarks.forwarding.calls")
    options.add_argument("load", choices=("rate", "streams", "first"))
    options.add_argument("port", type=int)
    options.add_argument("--connections", type=int, default=32)
    options.add_argument("--seconds", type=float, default=3)
    options.add_argument("--rate", type=float, default=100)
    options.add_argument("--rounds", type=int, default=300)
    options.add_argument("--through", type=int, nargs="*", default=[])
    options.add_argument("--pid", type=int)
    options.add_argument("--tls", action="store_true")
    options.add_argument("--direct", action="store_true")
    args = options.parse_args()
    gc.disable()
    print(json.dumps({"rate": rate, "streams": streams, "first": first}[args.load](args)))


if __name__ == "__main__":
    main()
