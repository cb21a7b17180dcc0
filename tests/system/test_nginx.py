"""The instance's nginx.conf and agent as they were rendered, in front of a small upstream, over TLS on loopback."""

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from client.endpoint import Endpoint
from client.errors import Draining, KeyRejected, Untrusted
from client.settings import DEFAULT_IMAGE, Secret
from functions import userdata
from tests.simulator import userdata as cloud
from tests.simulator.addresses import Addresses
from tests.simulator.services import nginx_binary

KEY = "Planted-Key_0123456789abcdefABCDEF"
OWNER, OTHER = "a" * 32, "b" * 32
ANSWER_TIMEOUT_S = 20.0


def until(true: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait until something is so; fail saying what was waited for."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


class Upstream(http.server.ThreadingHTTPServer):
    """Stands where Ollama does: says what it was sent, and sends what the query asks for, step by step."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.received = 0
        self.finished = 0
        self.gate = threading.Semaphore(0)
        super().__init__((address, 11434), Ollama)

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)


class Ollama(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Upstream

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers.items())))
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        try:
            self.take_body()
            self.send_response(int(asked.get("status", 200)))
            self.send_header("X-Exollama", "draining")
            if "chunks" in asked:
                self.stream(int(asked["chunks"]))
            else:
                body = b"x" * int(asked.get("size", 2))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)
        except (OSError, ValueError):
            self.close_connection = True
        self.server.finished += 1

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

    def take_body(self) -> None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.server.received += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left:
                part = self.rfile.read1(min(left, 65536))
                if not part:
                    raise OSError("the body was cut")
                left -= len(part)
                self.server.received += len(part)

    def stream(self, chunks: int) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(chunks):
            self.server.gate.acquire(timeout=ANSWER_TIMEOUT_S)
            line = json.dumps({"number": number}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


class Instance:
    """One rendered instance below a folder of its own: nginx, agent and upstream, at an address of its own."""

    def __init__(self, root: Path, address: str) -> None:
        self.root, self.address = root, address
        self.key = Secret(KEY)
        self.user_data = userdata.render(
            name="exollama", model="tiny:1b", key=self.key, request="0" * 32, image=DEFAULT_IMAGE, idle_s=1800,
            boot_s=1800, retention_s=86400, deadline=None, action="destroy", version="0.0.0",
        )  # fmt: skip
        cloud.write(cloud.read(self.user_data), root, address)
        self.tls = cloud.place("/var/lib/exollama/tls", root)
        self.run = cloud.place("/run/exollama", root)
        self.log = cloud.place("/var/log/exollama", root)
        for folder in (self.tls, self.run, self.log):
            folder.mkdir(parents=True, exist_ok=True)
        self.certify()
        ready = {"phase": "ready", "started": 1.0, "phase_started": 2.0, "done": [], "percent": None, "error": None}
        (self.run / "boot.json").write_text(json.dumps(ready))
        self.upstream = Upstream(address)
        self.thread = threading.Thread(target=self.upstream.serve_forever, kwargs={"poll_interval": 0.05})
        self.agent: subprocess.Popen[bytes] | None = None
        self.nginx: subprocess.Popen[bytes] | None = None

    def certify(self) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        files = ["-keyout", str(self.tls / "key.pem"), "-out", str(self.tls / "cert.pem")]
        make = ["openssl", "req", "-x509", *curve, "-subj", "/CN=test", *files]
        subprocess.run(make, check=True, capture_output=True)

    def nginx_argv(self, *more: str) -> list[str]:
        conf = cloud.place("/etc/exollama/nginx.conf", self.root)
        start_log = str(self.log / "nginx-start.log")
        return [nginx_binary(), "-e", start_log, "-p", str(self.root), "-c", str(conf), *more]

    def start_nginx(self) -> None:
        self.nginx = subprocess.Popen(self.nginx_argv("-g", "daemon off;"), stderr=subprocess.DEVNULL)

    def start_agent(self) -> None:
        program = cloud.place("/opt/exollama/agent.py", self.root)
        self.agent = subprocess.Popen([sys.executable, "-I", str(program)])
        until((self.run / "agent.sock").exists, "the agent's socket")

    def stop_agent(self) -> None:
        assert self.agent
        self.agent.kill()
        self.agent.wait(10)
        (self.run / "agent.sock").unlink(missing_ok=True)

    def start(self) -> None:
        self.thread.start()
        self.start_agent()
        self.start_nginx()
        until(self.answers, "nginx and the agent")

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/.exollama/proof", key=None).status == 200
        except OSError:
            return False

    def stop(self) -> None:
        for process in (self.nginx, self.agent):
            if process:
                process.terminate()
                process.wait(10)
        self.upstream.shutdown()
        self.upstream.server_close()
        self.thread.join(10)

    def connect(self) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(socket.create_connection((self.address, 11435), ANSWER_TIMEOUT_S))

    @contextmanager
    def asking(
        self, method: str, path: str, *, key: str | None = KEY, headers: dict[str, str] | None = None, body: Any = None
    ) -> Iterator[http.client.HTTPResponse]:
        given = {"X-Ollama-Key": key} if key else {}
        connection = http.client.HTTPConnection(self.address)
        connection.sock = self.connect()
        try:
            connection.request(method, path, body, {**given, **(headers or {})})
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, method: str, path: str, **more: Any) -> "Answer":
        with self.asking(method, path, **more) as response:
            return Answer(response.status, response.headers, response.read())

    def requests(self) -> int:
        size = (self.log / "activity").stat().st_size
        assert size % 2 == 0
        return size // 2

    def counted(self, deed: Callable[[], object]) -> int:
        """By how much the activity file grew: a request's line is written right after its last byte."""
        before = self.requests()
        deed()
        time.sleep(0.05)
        return self.requests() - before

    def status(self) -> dict[str, Any]:
        answer = self.ask("GET", "/.exollama/status")
        assert answer.status == 200, answer
        return answer.json()


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> dict[str, Any]:
        assert self.headers["Content-Type"] == "application/json"
        found: dict[str, Any] = json.loads(self.body)
        return found


@pytest.fixture
def instance() -> Iterator[Instance]:
    root = Path(tempfile.mkdtemp(prefix="exo-"))
    root.chmod(0o711)  # nginx's workers may be another user
    addresses = Addresses()
    found = Instance(root, addresses.take())
    try:
        found.start()
        yield found
    finally:
        found.stop()
        addresses.close()
        shutil.rmtree(root, ignore_errors=True)


# -- the key


KEYS = [
    ({"X-Ollama-Key": KEY}, 200),
    ({"x-ollama-key": KEY}, 200),
    ({"Authorization": f"Bearer {KEY}"}, 200),
    ({"authorization": f"bearer {KEY}"}, 200),
    ({"Authorization": f"Bearer {KEY}", "X-Ollama-Key": "other"}, 200),
    ({}, 401),
    ({"X-Ollama-Key": ""}, 401),
    ({"X-Ollama-Key": KEY.lower()}, 401),
    ({"X-Ollama-Key": KEY.upper()}, 401),
    ({"X-Ollama-Key": KEY.swapcase()}, 401),
    ({"X-Ollama-Key": KEY[:-1]}, 401),
    ({"X-Ollama-Key": KEY + "x"}, 401),
    ({"X-Ollama-Key": "x" + KEY}, 401),
    ({"X-Ollama-Key": f"x, {KEY}"}, 401),
    ({"X-Ollama-Key": f"Bearer {KEY}"}, 401),
    ({"X_Ollama_Key": KEY}, 401),
    ({"Authorization": KEY}, 401),
    ({"Authorization": f"Basic {KEY}"}, 401),
    ({"Authorization": f"Bearer{KEY}"}, 401),
    ({"Authorization": f"Bearer {KEY} x"}, 401),
    ({"Authorization": f"Bearer {KEY.swapcase()}"}, 401),
    ({"Authorization": f"Bearer x Bearer {KEY}"}, 401),
    ({"Cookie": f"X-Ollama-Key={KEY}"}, 401),
]


def test_the_key_opens_in_both_forms_and_nothing_else_does(instance: Instance) -> None:
    for headers, expected in KEYS:
        for method, path in (("GET", "/api/tags"), ("POST", "/api/generate"), ("GET", "/.exollama/status")):
            answer = instance.ask(method, path, key=None, headers=headers)
            assert answer.status == expected, (headers, method, path)
            if expected == 401:
                assert "X-Ollama-Key" in answer.json()["error"]
                assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert {method for method, _, _ in instance.upstream.seen} == {"GET", "POST"}
    refused_or_agent = len(instance.upstream.seen) - 2 * sum(status == 200 for _, status in KEYS)
    assert refused_or_agent == 0, "the upstream saw a request that it should not have seen"


def test_the_key_stays_with_nginx_and_other_headers_pass(instance: Instance) -> None:
    given = {"Authorization": f"Bearer {KEY}", "X-Ollama-Key": KEY, "X-Own": "kept", "Accept": "text/plain"}
    assert instance.ask("POST", "/api/chat", key=None, headers=given, body=b"{}").status == 200
    (_, path, headers), *more = instance.upstream.seen
    assert not more
    assert path == "/api/chat"
    assert KEY not in json.dumps(headers)
    passed = {"host", "connection", "content-length", "accept-encoding", "x-own", "accept"}
    assert {name.lower() for name in headers} == passed
    assert headers["Connection"] == "close"
    assert headers["X-Own"] == "kept"


def test_the_key_is_in_no_log_and_in_no_argument(instance: Instance) -> None:
    for headers, _ in KEYS:
        instance.ask("POST", "/api/generate", key=None, headers=headers)
    instance.upstream.shutdown()
    instance.upstream.server_close()
    instance.ask("POST", "/api/generate")
    instance.stop_agent()
    instance.ask("GET", "/.exollama/status")
    logs = [file for file in instance.log.rglob("*") if file.is_file()]
    assert instance.log / "activity" in logs
    for file in logs:
        assert KEY.lower() not in file.read_text().lower(), file
    assert instance.nginx
    assert KEY not in Path(f"/proc/{instance.nginx.pid}/cmdline").read_text()
    instance.start_agent()
    instance.thread = threading.Thread(target=lambda: None)
    instance.thread.start()


# -- what goes through


def test_a_stream_arrives_chunk_by_chunk_while_the_upstream_still_works(instance: Instance) -> None:
    with instance.asking("POST", "/api/generate?chunks=3", body=b"{}") as response:
        for number in range(3):
            instance.upstream.gate.release()
            assert json.loads(response.readline()) == {"number": number}
            assert instance.upstream.finished == (0 if number < 2 else instance.upstream.finished)
        assert response.read() == b""
        assert response.headers["X-Exollama"] is None


def test_an_upload_reaches_the_upstream_while_the_client_still_sends(instance: Instance) -> None:
    part, parts = b"x" * 65536, 64

    def body() -> Iterator[bytes]:
        for number in range(1, parts + 1):
            yield part
            if number % 16 == 0:
                until(lambda sent=number: instance.upstream.received >= sent * len(part) * 0.9, "the upload so far")  # type: ignore[misc]

    for headers in ({"Content-Length": str(len(part) * parts)}, {}):  # without a length: chunked
        instance.upstream.received = 0
        path = "/api/blobs/sha256:0" if headers else "/api/create"
        with instance.asking("POST", path, headers=headers, body=body()) as response:
            assert response.status == 200
        assert instance.upstream.received == len(part) * parts
    assert not list(instance.run.glob("nginx-*/**/[0-9]*")), "a body was buffered in a file"


def test_the_path_and_query_go_through_as_they_came(instance: Instance) -> None:
    for path in ("/", "/api/show?a=b&c=%20", "/v1/models/x%2Fy", "/api//tags", "/api/x/../tags"):
        instance.ask("GET", path)
        assert instance.upstream.seen[-1][1] == path


@pytest.mark.parametrize("status", [400, 404, 500, 502, 503])
def test_the_upstreams_own_errors_go_through(instance: Instance, status: int) -> None:
    answer = instance.ask("POST", f"/api/generate?status={status}")
    assert (answer.status, answer.body) == (status, b"xx")
    assert answer.headers["X-Exollama"] is None, "only the fence may say so"


def test_without_an_upstream_the_answer_is_502_and_json(instance: Instance) -> None:
    instance.upstream.shutdown()
    instance.upstream.socket.close()
    answer = instance.ask("POST", "/api/generate")
    assert answer.status == 502
    assert "Ollama" in answer.json()["error"]
    assert answer.headers["X-Exollama"] is None
    instance.upstream = Upstream(instance.address)
    instance.thread = threading.Thread(target=instance.upstream.serve_forever)
    instance.thread.start()


def test_nginx_does_not_say_which_one_it_is_and_takes_tls_1_3_only(instance: Instance) -> None:
    assert instance.ask("GET", "/", key=None).headers["Server"] == "nginx"
    with instance.connect() as connection:
        assert connection.version() == "TLSv1.3"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((instance.address, 11435), 5) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


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
        assert instance.counted(lambda m=method, p=path: instance.ask(m, p)) == expected, (method, path)  # type: ignore[misc]
        refused = instance.counted(lambda m=method, p=path: instance.ask(m, p, key=None))  # type: ignore[misc]
        assert refused == 0, ("without a key", method, path)
    fenced = instance.run / "fence"
    fenced.write_text("")
    for method, path, expected in ACTIVITY:
        assert instance.counted(lambda m=method, p=path: instance.ask(m, p)) == expected, ("fenced", method, path)  # type: ignore[misc]
        refused = instance.counted(lambda m=method, p=path: instance.ask(m, p, key=None))  # type: ignore[misc]
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
        assert instance.nginx
        for child in Path(f"/proc/{instance.nginx.pid}/task/{instance.nginx.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
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
    until(lambda: instance.status()["in_flight"] == 0, "no connection to the upstream is kept", 1)
    connection.close()


# -- the agent's paths


def test_paths_below_exollama_are_never_ollamas(instance: Instance) -> None:
    for end in ("", "/", "/x", "/status/x", "%2fx", "/../.exollama/x"):
        path = f"/.exollama{end}"
        assert instance.ask("GET", path).status == 404, path
        assert instance.ask("GET", path, key=None).status == 401, path
    # What nginx reads as the proof's path needs no key, so it must be the proof's for the agent too.
    for path in ("/status/../proof", "/x%2f..%2fproof", "//proof", "/proof?a=/status"):
        answer = instance.ask("GET", f"/.exollama{path}", key=None)
        assert (answer.status, sorted(answer.json())) == (200, ["mac", "nonce"]), path
    for path in ("/.exollama/proof/../status", "/.exollama/proof%2f..%2fstatus", "/.exollama/status?/../proof"):
        assert instance.ask("GET", path, key=None).status == 401, path
    assert instance.upstream.seen == []


def test_methods_and_bodies_that_the_agent_does_not_know_are_refused_as_json(instance: Instance) -> None:
    for method, path, status in (
        ("POST", "/.exollama/proof", 405),
        ("DELETE", "/.exollama/status", 405),
        ("BREW", "/.exollama/status", 405),
        ("PATCH", f"/.exollama/fence/{OWNER}", 405),
        ("PUT", "/.exollama/fence/nobody", 400),
        ("PUT", f"/.exollama/fence/{OWNER.upper()}", 400),
        ("PUT", f"/.exollama/fence/{OWNER}/", 404),
    ):
        answer = instance.ask(method, path)
        assert (answer.status, list(answer.json())) == (status, ["error"]), (method, path)
    assert instance.ask("POST", "/.exollama/touch", body=b"x" * 4096).status == 204
    large = instance.ask("POST", "/.exollama/touch", body=b"x" * 4097)
    assert (large.status, list(large.json())) == (413, ["error"])
    assert instance.ask("GET", "/.exollama/proof", body=b"x" * 4097, key=None).status == 413


def test_a_dead_agent_is_502_and_json_and_ollama_still_answers(instance: Instance) -> None:
    instance.stop_agent()
    for path, key in (("/.exollama/status", KEY), ("/.exollama/proof", None)):
        answer = instance.ask("GET", path, key=key)
        assert answer.status == 502
        assert "agent" in answer.json()["error"]
    assert instance.ask("POST", "/api/generate").status == 200
    instance.start_agent()


def test_a_fence_and_the_idle_time_outlive_the_agents_restart(instance: Instance) -> None:
    instance.ask("POST", "/api/generate")
    instance.ask("PUT", f"/.exollama/fence/{OWNER}")
    time.sleep(1.2)
    before = instance.status()
    instance.stop_agent()
    assert instance.ask("POST", "/api/show").status == 503, "nginx looks at the file, not at the agent"
    instance.start_agent()
    after = instance.status()
    assert 1.0 <= before["idle_s"] <= after["idle_s"]
    assert after["fence"]["lease_s"] < before["fence"]["lease_s"]
    assert instance.ask("PUT", f"/.exollama/fence/{OTHER}").status == 409
    assert instance.ask("POST", f"/.exollama/fence/{OWNER}/commit").status == 200
    instance.stop_agent()
    instance.start_agent()
    assert instance.status()["fence"]["committed"] is True
    assert instance.ask("POST", f"/.exollama/fence/{OWNER}/commit").status == 200, "repeated, as after a lost answer"
    assert instance.ask("DELETE", f"/.exollama/fence/{OWNER}").status == 204


def test_the_client_binds_to_the_certificate_by_the_proof(instance: Instance) -> None:
    good = Endpoint(instance.address, Secret(KEY))
    assert good.status()["boot"]["phase"] == "ready"
    wrong = Endpoint(instance.address, Secret("y" * 40))
    with pytest.raises((Untrusted, KeyRejected)):
        wrong.status()
    instance.ask("PUT", f"/.exollama/fence/{OWNER}")
    with pytest.raises(Draining):
        good.touch()
    good.close()
    wrong.close()


def test_two_proofs_have_two_nonces(instance: Instance) -> None:
    proofs = [instance.ask("GET", "/.exollama/proof", key=None).json() for _ in range(2)]
    assert proofs[0]["nonce"] != proofs[1]["nonce"]
    assert len(bytes.fromhex(proofs[0]["nonce"])) == 16


# -- the configuration itself


def test_the_configuration_loads_without_a_warning_as_it_goes_to_the_instance(instance: Instance) -> None:
    """IPv6 included; where the test is no root, nginx remarks that `user` has no meaning."""
    conf = cloud.place("/etc/exollama/nginx.conf", instance.root)
    source = next(file for file in cloud.read(instance.user_data).files if file.path == "/etc/exollama/nginx.conf")
    assert source.mode == 0o600
    text = source.content.decode()
    assert text.count("listen 11435 ") == text.count("listen [::]:11435 ") == 1
    moved = text.replace("/var/lib/exollama", str(instance.tls.parent))
    for prefix in ("/var/log/exollama", "/run/exollama"):
        moved = moved.replace(prefix, str(cloud.place(prefix, instance.root)))
    conf.write_text(moved)
    done = subprocess.run(instance.nginx_argv("-t"), capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "successful" not in line and "syntax is ok" not in line]
    assert done.returncode == 0, done.stderr
    assert [line for line in said if '"user" directive' not in line] == []


def test_a_reset_in_the_middle_leaves_nothing_in_flight(instance: Instance) -> None:
    connection = instance.connect()
    connection.sendall(f"POST /api/generate?chunks=9 HTTP/1.1\r\nHost: x\r\nX-Ollama-Key: {KEY}\r\n\r\n".encode())
    until(lambda: instance.status()["in_flight"] == 1, "the request")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    until(lambda: instance.status()["in_flight"] == 0, "the reset")
    instance.upstream.gate.release(9)
