"""A rendered instance without a zone: its own nginx.conf and agent before a small upstream, over TLS on loopback.

Neighbours: conftest.py has the fixture; the simulator's machines are the same with a boot, a warden and an API.
"""

import http.client
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from client.settings import DEFAULT_IMAGE, Secret
from functions import userdata
from tests.simulator import timeshift
from tests.simulator import userdata as cloud
from tests.simulator.addresses import Addresses
from tests.simulator.services import nginx_binary

KEY = "Planted-Key_0123456789abcdefABCDEF"
OWNER, OTHER = "a" * 32, "b" * 32
ANSWER_TIMEOUT_S = 20.0


def until(true: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait until something is so; fail saying what was waited for."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


class Upstream(http.server.ThreadingHTTPServer):
    """Stands where Ollama does: says what it was sent, and sends what the query asks for, step by step.

    `status`, `size` or `chunks`; `wait` seconds before the answer begins, `gap` between chunks (else the gate opens
    for each, its own where `id` has one), `id` to be known by.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.ids: set[str] = set()
        self.received = 0
        self.finished = 0
        self.gate = threading.Semaphore(0)
        self.gates: dict[str, threading.Semaphore] = {}
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
        if "id" in asked:
            self.server.ids.add(asked["id"])
        try:
            self.take_body()
            time.sleep(float(asked.get("wait", 0)))
            self.send_response(int(asked.get("status", 200)))
            self.send_header("X-Exollama", "draining")
            if "chunks" in asked:
                gate = self.server.gates.get(asked.get("id", ""), self.server.gate)
                self.stream(int(asked["chunks"]), asked.get("gap"), gate)
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

    def stream(self, chunks: int, gap: str | None, gate: threading.Semaphore) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(chunks):
            if gap is None:
                gate.acquire(timeout=ANSWER_TIMEOUT_S)
            else:
                time.sleep(float(gap))
            line = json.dumps({"number": number}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


class Instance:
    """One rendered instance below a folder of its own: nginx, agent and upstream, at an address of its own."""

    def __init__(self, root: Path, address: str, *, idle_s: int = 1800) -> None:
        self.root, self.address = root, address
        self.key = Secret(KEY)
        self.user_data = userdata.render(
            name="exollama", model="tiny:1b", key=self.key, request="0" * 32, image=DEFAULT_IMAGE, idle_s=idle_s,
            boot_s=1800, retention_s=86400, deadline=None, action="destroy", version="0.0.0",
        )  # fmt: skip
        cloud.write(cloud.read(self.user_data), root, address)
        self.tls = cloud.place("/var/lib/exollama/tls", root)
        self.run = cloud.place("/run/exollama", root)
        self.log = cloud.place("/var/log/exollama", root)
        for folder in (self.tls, self.run, self.log):
            folder.mkdir(parents=True, exist_ok=True)
        self.certify()
        self.offset = root / "offset"
        self.offset.write_text("0")
        self.off = root / "powered-off"
        systemctl = root / "bin/systemctl"
        systemctl.parent.mkdir()
        systemctl.write_text(f'#!/bin/sh\necho "$@" >> {self.off}\n')
        systemctl.chmod(0o755)
        self.booted()
        self.upstream = Upstream(address)
        self.thread = threading.Thread(target=self.upstream.serve_forever, kwargs={"poll_interval": 0.05})
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.agent: subprocess.Popen[bytes] | None = None
        self.nginx: subprocess.Popen[bytes] | None = None

    def booted(self) -> None:
        """What bootstrap says at its end."""
        ready = {"phase": "ready", "started": 1.0, "phase_started": 2.0, "done": [], "percent": None, "error": None}
        (self.run / "boot.json").write_text(json.dumps(ready))

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

    def stop_nginx(self) -> None:
        """At once: whatever it is passing on is cut."""
        assert self.nginx
        self.nginx.terminate()
        self.nginx.wait(10)

    def workers(self) -> list[int]:
        assert self.nginx
        children = Path(f"/proc/{self.nginx.pid}/task/{self.nginx.pid}/children")
        return [int(child) for child in children.read_text().split()]

    def start_agent(self) -> None:
        """The agent on a clock that can be moved, and with a systemctl of its own: it must not end this machine."""
        program = cloud.place("/opt/exollama/agent.py", self.root)
        env = {**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"}
        command = [sys.executable, "-I", str(timeshift.__file__), str(self.offset), str(program)]
        self.agent = subprocess.Popen(command, env=env)
        until(self.agent_answers, "the agent")

    def agent_answers(self) -> bool:
        """Whether it listens, for nginx's user too."""
        file = self.run / "agent.sock"
        with socket.socket(socket.AF_UNIX) as link, suppress(OSError):
            link.connect(str(file))
            return file.stat().st_mode & 0o777 == 0o660
        return False

    def stop_agent(self) -> None:
        assert self.agent
        self.agent.kill()
        self.agent.wait(10)
        (self.run / "agent.sock").unlink(missing_ok=True)

    def advance(self, seconds: float) -> None:
        """Move the agent's clock forward."""
        draft = self.root / "offset.new"
        draft.write_text(str(float(self.offset.read_text()) + seconds))
        os.replace(draft, self.offset)

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
        return self.context.wrap_socket(socket.create_connection((self.address, 11435), ANSWER_TIMEOUT_S))

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

    def counted(self, deed: Callable[[], object], expected: int) -> int:
        """By how much the activity file grew: a request's line is written right after its last byte, once nginx may."""
        before = self.requests()
        deed()
        until(lambda: self.requests() >= before + expected, "nginx's line")
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


@contextmanager
def running(**given: Any) -> Iterator[Instance]:
    """An instance that answers, until the end of the block."""
    root = Path(tempfile.mkdtemp(prefix="exo-"))
    root.chmod(0o711)  # nginx's workers may be another user
    addresses = Addresses()
    found = Instance(root, addresses.take(), **given)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        addresses.close()
        shutil.rmtree(root, ignore_errors=True)
