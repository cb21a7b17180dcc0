"""door.py in a process of its own, under Python 3.10 where there is one: who gets in, and who is let go."""

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.endpoint import Endpoint
from client.errors import AgentDown, KeyRejected, OllamaError, Untrusted
from client.settings import Secret
from tests.machine import hold_port
from tests.unit.machine import KEY, PREFIXES, PYTHON, ROOT, Machine, until

CONF = (ROOT / "cloudinit/nginx.conf").read_text()
# Each line opens or closes it, and is answered once that is done.
DRIVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import door
one = door.Door()
for line in sys.stdin:
    getattr(one, line.strip())() if line.strip() != "files" else None
    print(len(os.listdir("/proc/self/fd")), flush=True)
"""


class Doorway:
    """A door before a real agent, at an address of its own."""

    def __init__(self, root: Path, **changes: str) -> None:
        self.agent = Machine(root)
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        tls = self.agent.place("/var/lib/exollama/tls")
        files = ["-keyout", str(tls / "key.pem"), "-out", str(tls / "cert.pem")]
        subprocess.run([*argv, "-subj", "/CN=t", *files], check=True, capture_output=True)
        self.ports = [hold_port(host) for host in ("127.0.0.1", "::1")]
        self.port, self.port6 = (one.getsockname()[1] for one in self.ports)
        conf = CONF.replace("listen 11435", f"listen 127.0.0.1:{self.port}")
        conf = conf.replace("listen [::]:11435", f"listen [::1]:{self.port6}")
        self.agent.place("/etc/exollama/nginx.conf").write_text(conf)
        text = (ROOT / "cloudinit/door.py").read_text()
        for old, new in changes.items():
            found = f"{old} = "
            assert text.count(found) == 1, old
            start = text.index(found) + len(found)
            text = text[:start] + new + text[text.index("\n", start) :]
        for prefix in PREFIXES:
            text = text.replace(f'"{prefix}', f'"{self.agent.place(prefix)}')
        (root / "door.py").write_text(text)
        argv = [PYTHON, "-I", "-W", "error", "-c", DRIVER, str(root)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def tell(self, word: str) -> int:
        """Have it done, and return how many files are open then."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def connect(self, port: int | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if version:
            context.maximum_version = version
        host = "::1" if port == self.port6 else "127.0.0.1"
        return context.wrap_socket(socket.create_connection((host, port or self.port), 10))

    def said(self, *heads: bytes, port: int | None = None) -> bytes:
        """All that is answered to some requests on one connection, of which the last one is to end it."""
        with self.connect(port) as link:
            for head in heads:
                link.sendall(head)
            text = b""
            with contextlib.suppress(OSError):
                while part := link.recv(65536):
                    text += part
            return text

    def endpoint(self, key: str = KEY) -> Endpoint:
        return Endpoint("127.0.0.1", Secret(key), port=self.port, timeout_s=20)

    def close(self) -> str:
        """End it; what it had to say."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)
        self.agent.stop()
        self.agent.listener.close()
        for one in self.ports:
            one.close()
        assert self.process.stdout
        assert self.process.stderr
        said = self.process.stdout.read() + self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return said


@pytest.fixture
def doorway(tmp_path: Path) -> Iterator[Doorway]:
    found = Doorway(tmp_path)
    found.agent.start()
    found.tell("open")
    yield found
    assert found.close() == "", "it logs nothing"


def request(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


MINE, BEARER = f"X-Ollama-Key: {KEY}", f"Authorization: Bearer {KEY}"
KEYS = [
    ([MINE], 200),
    ([f"x-ollama-key:{KEY}"], 200),
    ([BEARER], 200),
    ([f"authorization: bearer  {KEY} "], 200),
    ([BEARER, "X-Ollama-Key: other"], 200),
    ([], 401),
    (["X-Ollama-Key:"], 401),
    ([f"X-Ollama-Key: {KEY.lower()}"], 401),
    ([f"X-Ollama-Key: {KEY.swapcase()}"], 401),
    ([f"X-Ollama-Key: {KEY[:-1]}"], 401),
    ([f"X-Ollama-Key: {KEY}x"], 401),
    ([f"X-Ollama-Key: Bearer {KEY}"], 401),
    ([f"X-Ollama-Key : {KEY}"], 401),
    ([f"X_Ollama_Key: {KEY}"], 401),
    ([f"Authorization: {KEY}"], 401),
    ([f"Authorization: Basic {KEY}"], 401),
    ([f"Authorization: Bearer{KEY}"], 401),
    ([f"Authorization: Bearer {KEY} x"], 401),
    ([f"Authorization: Bearer x Bearer {KEY}"], 401),
    ([f"Cookie: X-Ollama-Key={KEY}"], 401),
]


def test_the_key_opens_as_nginx_has_it_and_without_it_there_is_one_answer_a_connection(doorway: Doorway) -> None:
    for lines, status in KEYS:
        said = doorway.said(
            request("/.exollama/status", *lines), request("/.exollama/status", *lines, "Connection: close")
        )
        answers = said.split(b"HTTP/1.1 ")[1:]
        assert [int(one[:3]) for one in answers] == [status] * (2 if status == 200 else 1), lines
        if status == 401:
            assert b"WWW-Authenticate: Bearer\r\n" in said
            assert said.endswith(
                b'\r\n\r\n{"error":"missing or wrong key: send it as X-Ollama-Key or Authorization: Bearer"}'
            )


def test_a_key_that_is_empty_as_on_a_full_disk_lets_nobody_in(tmp_path: Path) -> None:
    doorway = Doorway(tmp_path)
    doorway.agent.place("/etc/exollama/key").write_text("")
    doorway.tell("open")
    try:
        for lines in ([], ["X-Ollama-Key:"], ["Authorization: Bearer "]):
            assert doorway.said(request("/.exollama/status", *lines)).startswith(b"HTTP/1.1 401 "), lines
    finally:
        assert doorway.close() == ""


def test_the_proof_needs_no_key_and_comes_three_times_a_connection(doorway: Doorway) -> None:
    said = doorway.said(*[request("/.exollama/proof")] * 5)
    bodies = [json.loads(one.partition(b"\r\n\r\n")[2]) for one in said.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert len({body["nonce"] for body in bodies}) == 3
    for path in ("/.exollama/proof/", "/.exollama/proof/../status", "/.exollama//proof", "/.exollama", "/", "/x"):
        assert doorway.said(request(path)).startswith(b"HTTP/1.1 401 "), path


def test_it_listens_on_both_families_and_takes_tls_1_3_only(doorway: Doorway) -> None:
    for port in (doorway.port, doorway.port6):
        assert doorway.said(request("/.exollama/status", BEARER, "Connection: close"), port=port).startswith(
            b"HTTP/1.1 200 "
        )
    with doorway.connect() as link:
        assert link.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        doorway.connect(version=ssl.TLSVersion.TLSv1_2)


def test_the_unchanged_client_binds_to_it_and_has_the_agents_own_answers(doorway: Doorway) -> None:
    doorway.agent.boot("docker")
    endpoint = doorway.endpoint()
    assert endpoint.status()["boot"]["phase"] == "docker"
    endpoint.touch()
    owner = "a" * 32
    endpoint.fence(owner)
    assert endpoint.status()["fence"]["committed"] is False
    endpoint.unfence(owner)
    kept = endpoint._idle  # one connection for all of them
    assert kept is not None
    endpoint.status()
    assert endpoint._idle is kept
    with (
        pytest.raises(OllamaError, match="502: Ollama or the agent is silent"),
        endpoint.request("POST", "/api/chat", {}),
    ):
        pass
    with pytest.raises((Untrusted, KeyRejected)):
        doorway.endpoint("y" * 40).status()
    endpoint.close()


def test_a_large_request_gets_its_answer_all_the_same(doorway: Doorway) -> None:
    body = b"x" * 1_000_000
    for line, status in ((MINE, b"502"), ("X-Ollama-Key: x", b"401")):
        with doorway.connect() as link:
            link.sendall(request("/api/generate", line, f"Content-Length: {len(body)}", method="POST") + body)
            assert link.recv(65536).startswith(b"HTTP/1.1 " + status)


def test_a_dead_agent_is_waited_for_as_behind_nginx(doorway: Doorway) -> None:
    doorway.agent.stop()
    endpoint = doorway.endpoint()
    with pytest.raises(AgentDown):
        endpoint.status()
    doorway.agent.start()
    assert endpoint.status()["boot"]["phase"] == "ready"
    endpoint.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /.exollama/proof\r\n\r\n",
        b"GET  /.exollama/proof HTTP/1.1\r\n\r\n",
        b"GET http://x/.exollama/proof HTTP/1.1\r\n\r\n",
        b"GET /.exollama/proof\x00 HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        request("/.exollama/proof", "X: " + "x" * 9000),
        b"x" * 100_000,
    ],
)
def test_what_is_no_request_or_too_long_gets_no_answer(doorway: Doorway, head: bytes) -> None:
    with contextlib.suppress(OSError):
        assert doorway.said(head) == b""
    assert doorway.said(request("/.exollama/proof", "Connection: close")).startswith(b"HTTP/1.1 200 ")


def test_who_hangs_is_let_go_and_a_crowd_shuts_nobody_out(tmp_path: Path) -> None:
    doorway = Doorway(tmp_path, PATIENCE_S="4", MOST="20")
    doorway.agent.start()
    try:
        before = doorway.tell("open")
        with contextlib.ExitStack() as stack:
            for _ in range(60):  # three times as many as may be connected, none of which shakes hands
                stack.enter_context(socket.create_connection(("127.0.0.1", doorway.port), 5))
            slow = [stack.enter_context(doorway.connect()) for _ in range(30)]
            for link in slow[15:]:
                link.sendall(b"GET /.exollama/proof HTTP/1.1\r\nX: ")
            began = time.monotonic()
            endpoint = doorway.endpoint()
            assert endpoint.status()["boot"]["phase"] == "ready"
            assert time.monotonic() - began < 4, "it waited for them: they have four seconds"
            endpoint.close()
            assert doorway.tell("files") <= before + 2 * 20 + 4
            for link in slow[15:]:  # a byte now and then is no request
                with contextlib.suppress(OSError):
                    link.sendall(b"x")
            until(lambda: doorway.tell("files") <= before + 1, "everybody is let go")
    finally:
        assert doorway.close() == ""


def test_once_it_is_closed_the_port_is_free_at_once_whoever_was_connected(doorway: Doorway) -> None:
    mark = doorway.agent.run / "door"
    assert mark.exists()
    with doorway.connect() as idle, socket.create_connection(("127.0.0.1", doorway.port)), doorway.connect() as asking:
        asking.sendall(b"GET /.ex")
        began = time.monotonic()
        doorway.tell("close")
        with socket.create_server(("127.0.0.1", doorway.port)), socket.create_server(("::1", doorway.port6), family=10):
            assert time.monotonic() - began < 5, "it waited for them: they have ten seconds"
        assert not mark.exists()
        with contextlib.suppress(ConnectionError):
            assert idle.recv(1) == b""
    doorway.tell("close")
    doorway.tell("open")
    assert doorway.said(request("/.exollama/proof", "Connection: close")).startswith(b"HTTP/1.1 200 ")


def test_a_mark_that_a_killed_boot_left_is_gone_once_the_next_one_hands_the_port_over(tmp_path: Path) -> None:
    doorway = Doorway(tmp_path)
    mark = doorway.agent.run / "door"
    mark.touch()
    doorway.tell("close")
    assert not mark.exists()
    assert doorway.close() == ""


def test_one_whose_thread_has_ended_is_closed_like_any_other(doorway: Doorway) -> None:
    before = doorway.tell("files")
    doorway.tell("end")
    until(lambda: doorway.tell("files") < before - 4, "the end of its thread")
    doorway.tell("close")
    assert not (doorway.agent.run / "door").exists()


def test_where_another_listens_already_it_says_so_and_leaves_no_mark(tmp_path: Path) -> None:
    doorway = Doorway(tmp_path)
    with socket.create_server(("127.0.0.1", doorway.port)), socket.create_server(("::1", doorway.port6), family=10):
        assert doorway.process.stdin
        doorway.process.stdin.write("open\n")
        doorway.process.stdin.flush()
        doorway.process.wait(10)
    assert not (doorway.agent.run / "door").exists()
    assert "OSError: nobody can listen where nginx would" in doorway.close()


def test_many_at_once_are_all_answered(doorway: Doorway) -> None:
    found: list[str] = []

    def ask() -> None:
        endpoint = doorway.endpoint()
        found.extend(endpoint.status()["boot"]["phase"] for _ in range(5))
        endpoint.close()

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == ["ready"] * 60
