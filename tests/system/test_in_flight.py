"""What the instance counts: activity, requests in flight at every stage, and what both mean for its fence."""

import http.client
import os
import signal
import socket
import ssl
import struct
import time

import pytest

from tests.system.instance import ANSWER_TIMEOUT_S, KEY, OTHER, OWNER, Instance, until

# -- activity


ACTIVITY = [
    *[("POST", path, 1) for path in ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/pull")],
    *[("POST", path, 1) for path in ("/api/create", "/api/blobs/sha256:00", "/v1/chat/completions", "/v1/embeddings")],
    ("POST", "/api/generate?x=1", 1),
    ("POST", "/api/%67enerate", 1),
    ("POST", "/api/generate?status=404", 1),
    ("POST", "/api/generate?status=401", 1),
    ("POST", "/api/generatex", 0),
    ("POST", "/API/GENERATE", 0),
    ("POST", "/x/api/generate", 0),
    ("POST", "/api/show", 0),
    ("POST", "/?/api/generate", 0),
    ("GET", "/api/generate", 0),
    ("GET", "/api/tags", 0),
    ("GET", "/api/ps", 0),
    ("GET", "/v1/models", 0),
    ("HEAD", "/", 0),
    ("GET", "/api/version", 0),
    ("DELETE", "/api/delete", 0),
    ("GET", "/.exollama/status", 0),
    ("POST", "/.exollama/touch", 0),
    ("POST", "/.exollama/nothing", 0),
]


def test_each_use_writes_two_bytes_and_looking_writes_none(instance: Instance) -> None:
    for method, path, expected in ACTIVITY:
        used = instance.counted(lambda m=method, p=path: instance.ask(m, p), expected)  # type: ignore[misc]
        assert used == expected, (method, path)
        refused = instance.counted(lambda m=method, p=path: instance.ask(m, p, key=None), 0)  # type: ignore[misc]
        assert refused == 0, ("without a key", method, path)
    fenced = instance.run / "fence"
    fenced.write_text("")
    for method, path, expected in ACTIVITY:
        used = instance.counted(lambda m=method, p=path: instance.ask(m, p), expected)  # type: ignore[misc]
        assert used == expected, ("fenced", method, path)
        refused = instance.counted(lambda m=method, p=path: instance.ask(m, p, key=None), 0)  # type: ignore[misc]
        assert refused == 0, ("fenced, without a key", method, path)
    fenced.unlink()


def test_an_aborted_stream_is_in_flight_until_it_is_aborted_and_counts_as_activity(instance: Instance) -> None:
    with instance.asking("POST", "/api/generate?chunks=100") as response:
        instance.upstream.gate.release()
        response.readline()
        assert instance.status()["in_flight"] == 1
        before = instance.requests()
    instance.upstream.gate.release(3)
    until(lambda: instance.status()["in_flight"] == 0, "the abort")
    until(lambda: instance.requests() == before + 1, "the aborted request's line")


# -- the fence


def test_the_fence_refuses_requests_with_503_and_leaves_the_agent_reachable(instance: Instance) -> None:
    assert instance.ask("PUT", f"/.exollama/fence/{OWNER}").status == 201
    for method, path in (("POST", "/api/generate"), ("GET", "/api/tags"), ("GET", "/")):
        answer = instance.ask(method, path)
        assert answer.status == 503
        assert answer.headers["X-Exollama"] == "draining"
        assert int(answer.headers["Retry-After"]) > 0
        assert "draining" in answer.json()["error"]
        assert instance.ask(method, path, key=None).status == 401, "the key comes first"
    assert instance.upstream.seen == []
    assert instance.status()["fence"]["committed"] is False
    assert instance.ask("GET", "/.exollama/proof", key=None).status == 200
    touched = instance.ask("POST", "/.exollama/touch")
    assert (touched.status, touched.headers["X-Exollama"]) == (503, "draining")
    assert instance.ask("DELETE", f"/.exollama/fence/{OTHER}").status == 409
    assert instance.ask("DELETE", f"/.exollama/fence/{OWNER}").status == 204
    assert instance.ask("POST", "/api/generate").status == 200


def test_a_request_that_began_before_the_fence_ends_well_and_stops_the_commit(instance: Instance) -> None:
    commit = f"/.exollama/fence/{OWNER}/commit"
    with instance.asking("POST", "/api/generate?chunks=2") as response:
        until(lambda: instance.upstream.seen, "the request")
        assert instance.ask("PUT", f"/.exollama/fence/{OWNER}").status == 201
        refused = instance.ask("POST", commit)
        assert (refused.status, refused.json()["error"]) == (409, "1 in flight")
        instance.upstream.gate.release(2)
        assert len(response.read().splitlines()) == 2
    until(lambda: instance.status()["in_flight"] == 0, "its end")
    late = instance.ask("POST", commit)
    assert late.status == 409, "it ended, but was in use after the fence"
    assert "asked for" in late.json()["error"]
    assert instance.ask("DELETE", f"/.exollama/fence/{OWNER}").status == 204
    assert instance.ask("PUT", f"/.exollama/fence/{OTHER}").status == 201
    assert instance.ask("POST", f"/.exollama/fence/{OTHER}/commit").status == 200


def test_a_refused_request_stops_the_commit_as_well(instance: Instance) -> None:
    instance.ask("PUT", f"/.exollama/fence/{OWNER}")
    assert instance.ask("POST", "/api/generate").status == 503
    assert instance.ask("POST", f"/.exollama/fence/{OWNER}/commit").status == 409


def test_a_slow_readers_answer_is_in_flight_until_nginx_has_passed_it_on(instance: Instance) -> None:
    size = 32_000_000
    with instance.asking("POST", f"/api/generate?size={size}") as response:
        first = response.read(1000)
        time.sleep(0.5)
        # The upstream may have written all and closed: what nginx holds is still on its way to the client.
        assert instance.status()["in_flight"] == 1
        assert len(first) + len(response.read()) == size
    until(lambda: instance.status()["in_flight"] == 0, "the end")


def unread(instance: Instance, request: bytes) -> ssl.SSLSocket:
    """A connection of a client that asks, but takes (almost) nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(ANSWER_TIMEOUT_S)
    raw.connect((instance.address, 11435))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = context.wrap_socket(raw)
    connection.sendall(request)
    return connection


@pytest.mark.parametrize("size", [100_000, 2_000_000, *range(2_400_000, 3_000_001, 100_000), 6_000_000])
def test_an_answer_that_was_not_read_is_in_flight_wherever_its_end_waits(instance: Instance, size: int) -> None:
    """In Ollama, in nginx, or (the upstream gone, the request logged) in the kernel alone, by size."""
    head = f"POST /api/generate?size={size} HTTP/1.1\r\nHost: x\r\nX-Ollama-Key: {KEY}\r\nContent-Length: 0\r\n"
    with unread(instance, head.encode() + b"Connection: close\r\n\r\n") as connection:
        until(lambda: instance.upstream.finished or size > 4_000_000, "the upstream's last byte")
        time.sleep(0.2)
        assert instance.status()["in_flight"] == 1
        assert instance.ask("PUT", f"/.exollama/fence/{OWNER}").status == 201
        assert instance.ask("POST", f"/.exollama/fence/{OWNER}/commit").status == 409
        received = 0
        while part := connection.recv(1 << 16):
            received += len(part)
        assert received > size
    until(lambda: instance.status()["in_flight"] == 0, "the end")


@pytest.mark.parametrize("path", ["/api/generate", "/.exollama/status", "/.exollama/proof"])
def test_without_a_key_nobody_holds_an_instance_by_not_reading(instance: Instance, path: str) -> None:
    ask = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with unread(instance, ask * 200) as connection:
        time.sleep(0.3)
        assert instance.status()["in_flight"] == 0
        received = b""
        try:
            while part := connection.recv(1 << 16):
                received += part
        except OSError:
            pass  # nginx does not wait for all of it
        assert 0 < received.count(b"HTTP/1.1 ") <= 3


@pytest.mark.parametrize("key", [None, "x" * 40])
def test_a_keyless_slow_body_is_not_in_flight(instance: Instance, key: str | None) -> None:
    header = f"X-Ollama-Key: {key}\r\n" if key else ""
    with instance.connect() as connection:
        head = f"POST /api/generate HTTP/1.1\r\nHost: x\r\n{header}Content-Length: 9999\r\n\r\n"
        connection.sendall(head.encode() + b"slow")
        assert b" 401 " in connection.recv(4096).split(b"\r\n")[0]
        assert instance.status()["in_flight"] == 0


def test_a_killed_worker_leaves_nothing_in_flight(instance: Instance) -> None:
    with instance.asking("POST", "/api/generate?chunks=100") as response:
        instance.upstream.gate.release()
        response.readline()
        assert instance.status()["in_flight"] == 1
        for worker in instance.workers():
            os.kill(worker, signal.SIGKILL)
        with pytest.raises((OSError, http.client.HTTPException)):
            response.read()
    instance.upstream.gate.release(99)
    until(instance.answers, "new workers")
    until(lambda: instance.status()["in_flight"] == 0, "an empty table")


def test_keep_alive_clients_that_wait_are_not_in_flight(instance: Instance) -> None:
    connection = http.client.HTTPConnection(instance.address)
    connection.sock = instance.connect()
    for _ in range(3):
        connection.request("POST", "/api/generate", b"{}", {"X-Ollama-Key": KEY})
        assert connection.getresponse().read() == b"xx"
    assert connection.sock is not None, "the connection to nginx is kept"
    until(lambda: instance.status()["in_flight"] == 0, "no connection to the upstream is kept")
    connection.close()


def test_a_reset_in_the_middle_leaves_nothing_in_flight(instance: Instance) -> None:
    connection = instance.connect()
    connection.sendall(f"POST /api/generate?chunks=9 HTTP/1.1\r\nHost: x\r\nX-Ollama-Key: {KEY}\r\n\r\n".encode())
    until(lambda: instance.status()["in_flight"] == 1, "the request")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    until(lambda: instance.status()["in_flight"] == 0, "the reset")
    instance.upstream.gate.release(9)
