"""The agent as a process over its Unix socket, under Python 3.10 where there is one, else under this one."""

import ast
import hashlib
import hmac
import http.client
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
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KEY = "planted-key-0123456789abcdefABCDEF"
A, B = "a" * 32, "b" * 32
PREFIXES = ("/etc/exollama", "/run/exollama", "/var/log/exollama", "/var/lib/exollama")


def oldest_python() -> str:
    """A Python 3.10 that runs, on PATH or installed beside this one; else this one, which ast then answers for."""
    beside = Path(sys.base_prefix).parent.glob("*3.10*/bin/python3.10")
    for candidate in (shutil.which("python3.10"), *map(str, beside)):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return sys.executable


PYTHON = oldest_python()


def until(true: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


class Machine:
    """The files of an instance below one folder, and an agent that runs on them."""

    def __init__(self, root: Path, **policy: Any) -> None:
        self.root = root
        for prefix in PREFIXES:
            self.place(prefix).mkdir(parents=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.upstream = f"127.0.0.1:{self.listener.getsockname()[1]}"
        defaults = {
            "v": 1, "request": "0" * 32, "name": "exollama", "model": "tiny", "image": "x", "idle_s": 1800,
            "boot_s": 1800, "retention_s": 86400, "deadline": None, "grace_s": 3600, "action": "destroy",
            "keep_failed": False, "upstream": self.upstream, "version": "0.0.0",
        }  # fmt: skip
        self.place("/etc/exollama/policy.json").write_text(json.dumps({**defaults, **policy}))
        self.place("/etc/exollama/key").write_text(KEY + "\n")
        self.place("/etc/exollama/nginx.conf").write_text("listen 127.0.0.9:11435 ssl;")
        self.place("/var/lib/exollama/tls").mkdir()
        self.run = self.place("/run/exollama")
        self.activity = self.place("/var/log/exollama/activity")
        self.offset = root / "offset"
        self.offset.write_text("0")
        self.bin = root / "bin"
        self.bin.mkdir()
        self.off = root / "powered-off"
        self.stub("systemctl", f'echo "$@" >> {self.off}')
        text = (ROOT / "cloudinit/agent.py").read_text()
        for prefix in PREFIXES:
            text = text.replace(f'"{prefix}', f'"{self.place(prefix)}')
        self.program = root / "agent.py"
        self.program.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None
        self.boot("ready")

    def place(self, path: str) -> Path:
        return self.root / path[1:]

    def stub(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def boot(self, phase: str, **more: Any) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME) + float(self.offset.read_text())
        said = {"phase": phase, "started": now, "phase_started": now, "done": [["nginx", 1.5]]}
        (self.run / "boot.json.new").write_text(json.dumps({**said, "percent": None, "error": None, **more}))
        os.replace(self.run / "boot.json.new", self.run / "boot.json")

    def start(self) -> None:
        (self.run / "agent.sock").unlink(missing_ok=True)
        env = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        shift = ["-c", SHIFT, str(self.offset), str(self.program)]
        self.process = subprocess.Popen([PYTHON, "-I", *shift], env=env)
        until(self.answers, "the agent")

    def answers(self) -> bool:
        try:
            return self.ask("GET", "status")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def advance(self, seconds: float) -> None:
        draft = self.root / "offset.new"
        draft.write_text(str(float(self.offset.read_text()) + seconds))
        os.replace(draft, self.offset)

    def raw(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(15)
            link.connect(str(self.run / "agent.sock"))
            link.sendall(request)
            answer = b""
            while part := link.recv(65536):
                answer += part
            return answer

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("agent", timeout=15)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.run / "agent.sock"))
            connection.request(method, f"/.exollama/{path}", body, headers or {})
            response = connection.getresponse()
            raw = response.read()
            if raw:
                assert response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(raw) if raw else None
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        status, body = self.ask("GET", "status")
        assert status == 200
        assert isinstance(body, dict)
        return body

    def powered_off(self) -> bool:
        return self.off.exists() and "poweroff" in self.off.read_text()


# What tests/simulator/timeshift.py does, in what Python 3.10 understands.
SHIFT = """
import runpy, sys, time
path, program = sys.argv[1:]
real, wall = time.clock_gettime, time.time
time.clock_gettime = lambda clock: real(clock) + float(open(path).read())
time.time = lambda: wall() + float(open(path).read())
runpy.run_path(program, run_name="__main__")
"""


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="exo-"))
    found = Machine(root, **getattr(request.function, "policy", {}))
    try:
        found.start()
        yield found
    finally:
        found.stop()
        found.listener.close()
        shutil.rmtree(root)


def policy(**changes: Any) -> Callable[[Any], Any]:
    """The policy of the machine that a test runs on."""

    def mark(test: Any) -> Any:
        test.policy = changes
        return test

    return mark


@pytest.mark.parametrize("name", ["agent.py", "bootstrap.py"])
def test_what_runs_on_the_instance_is_python_3_10(name: str) -> None:
    source = (ROOT / "cloudinit" / name).read_text()
    tree = ast.parse(source, feature_version=(3, 10))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in imported} <= sys.stdlib_module_names
    assert not imported & {"tomllib", "datetime.UTC"}, "newer than 3.10"


def test_the_proof_shows_key_and_certificate_and_never_the_same_twice(machine: Machine) -> None:
    files = [str(machine.place(f"/var/lib/exollama/tls/{name}")) for name in ("key.pem", "cert.pem")]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    nonces = set()
    for _ in range(2):  # the second time with another certificate
        subprocess.run(
            [*make, "-subj", "/CN=t", "-keyout", files[0], "-out", files[1]], check=True, capture_output=True
        )
        der = ssl.PEM_cert_to_DER_cert(Path(files[1]).read_text())
        for _ in range(2):
            status, proof = machine.ask("GET", "proof")
            assert status == 200
            text = f"exollama-tls-v1\n{proof['nonce']}\n{hashlib.sha256(der).hexdigest()}"
            assert proof["mac"] == hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
            assert len(bytes.fromhex(proof["nonce"])) == 16
            nonces.add(proof["nonce"])
    assert len(nonces) == 4


def test_the_status_has_the_contracts_shape_and_no_secret(machine: Machine) -> None:
    status = machine.status()
    assert set(status) == {"v", "idle_s", "in_flight", "requests", "boot", "fence", "policy", "versions"}
    assert set(status["boot"]) == {"phase", "percent", "elapsed_s", "phases", "error", "log"}
    assert status["boot"]["phases"] == [{"phase": "nginx", "seconds": 1.5}]
    assert (status["v"], status["in_flight"], status["requests"], status["fence"]) == (1, 0, 0, None)
    assert status["policy"]["idle_s"] == 1800
    assert not {"request", "upstream"} & set(status["policy"])
    assert status["versions"]["agent"] == 1
    assert KEY not in json.dumps(status)
    machine.ask("PUT", f"fence/{A}")
    assert A not in json.dumps(machine.status()), "a fence's owner is what lifts it"


def test_the_socket_is_for_nginx_only(machine: Machine) -> None:
    assert (machine.run / "agent.sock").stat().st_mode & 0o777 == 0o660


def test_idle_counts_from_requests_touches_streams_and_the_end_of_the_boot(machine: Machine) -> None:
    machine.advance(100)
    assert 100 <= machine.status()["idle_s"] < 110
    assert machine.ask("POST", "touch") == (204, None)
    assert machine.status()["idle_s"] < 2
    machine.advance(100)
    with machine.activity.open("a") as log:
        log.write(".\n.\n")
    status = machine.status()
    assert (status["requests"], status["idle_s"] < 2) == (2, True)
    machine.advance(100)
    assert machine.status()["idle_s"] >= 100
    machine.boot("model")
    assert machine.status()["idle_s"] < 2
    machine.boot("ready")
    machine.advance(50)
    assert 50 <= machine.status()["idle_s"] < 60


def test_in_flight_is_the_kernels_count_and_keeps_the_machine_busy(machine: Machine) -> None:
    host, _, port = machine.upstream.rpartition(":")
    streams = [socket.create_connection((host, int(port))) for _ in range(3)]
    machine.advance(5000)
    status = machine.status()
    assert (status["in_flight"], status["idle_s"] < 2) == (3, True)
    assert machine.ask("PUT", f"fence/{A}")[0] == 201
    assert machine.ask("POST", f"fence/{A}/commit") == (409, {"error": "3 in flight"})
    for stream in streams:
        stream.close()
    until(lambda: machine.status()["in_flight"] == 0, "no connection")
    assert machine.ask("POST", f"fence/{A}/commit")[0] == 200
    assert not machine.off.exists()


def test_a_stream_that_ends_between_two_questions_was_activity(machine: Machine) -> None:
    machine.advance(5000)
    host, _, port = machine.upstream.rpartition(":")
    with socket.create_connection((host, int(port))):
        until(lambda: json.loads((machine.run / "activity.json").read_text())["active_at"] > 5000, "a tick", 5)
        time.sleep(1.2)
    assert machine.status()["idle_s"] < 3


def test_the_fence_is_a_file_while_it_stands_and_is_kept_through_restarts(machine: Machine) -> None:
    fence = machine.run / "fence"
    began = time.monotonic()
    assert machine.ask("PUT", f"fence/{A}") == (201, {"lease_s": 120.0, "committed": False, "committed_s": None})
    assert time.monotonic() - began >= 0.1, "the answer waits for workers on their way"
    assert fence.exists()
    machine.advance(60)
    machine.restart()
    assert 55 < machine.status()["fence"]["lease_s"] <= 60
    assert machine.ask("PUT", f"fence/{B}")[0] == 409
    assert machine.ask("DELETE", f"fence/{B}")[0] == 409
    machine.advance(60)
    until(lambda: not fence.exists(), "the lease's end, unasked")
    assert machine.ask("POST", f"fence/{A}/commit")[0] == 409
    assert machine.ask("PUT", f"fence/{B}")[0] == 201
    assert machine.ask("POST", f"fence/{B}/commit")[0] == 200
    machine.restart()
    machine.advance(300)
    assert machine.status()["fence"]["committed"] is True
    assert machine.ask("POST", f"fence/{B}/commit")[0] == 200
    assert machine.ask("DELETE", f"fence/{A}")[0] == 409
    assert machine.ask("DELETE", f"fence/{B}") == (204, None)
    assert not fence.exists()


def test_a_touch_behind_the_fence_is_refused_and_stops_the_commit(machine: Machine) -> None:
    machine.ask("PUT", f"fence/{A}")
    assert machine.ask("POST", "touch")[0] == 503
    machine.restart()
    assert machine.ask("POST", f"fence/{A}/commit")[0] == 409
    assert machine.ask("DELETE", f"fence/{A}")[0] == 204
    assert machine.ask("POST", "touch")[0] == 204


def test_an_unreadable_fence_file_shuts_the_machine_for_one_lease(machine: Machine) -> None:
    machine.stop()
    (machine.run / "fence").write_text("\x00garbage")
    (machine.run / "activity.json").write_text("{")
    machine.start()
    assert machine.ask("PUT", f"fence/{A}")[0] == 409
    assert machine.ask("POST", "touch")[0] == 503
    machine.advance(120)
    until(lambda: not (machine.run / "fence").exists(), "the lease's end")
    assert machine.ask("PUT", f"fence/{A}")[0] == 201


def test_idle_time_outlives_a_restart_and_a_request_meanwhile_counts(machine: Machine) -> None:
    machine.advance(500)
    machine.restart()
    assert 500 <= machine.status()["idle_s"] < 510
    machine.stop()
    machine.activity.write_text(".\n")
    machine.start()
    assert machine.status()["idle_s"] < 3


def test_bodies_methods_and_lines_that_are_wrong_get_json_and_the_agent_goes_on(machine: Machine) -> None:
    assert machine.ask("POST", "touch", b"x" * 4096)[0] == 204
    assert machine.ask("POST", "touch", b"x" * 4097)[0] == 413
    for length in ("-1", "x", "99999999999999"):
        assert machine.ask("POST", "touch", headers={"Content-Length": length})[0] == 413
    for method, path, status in (
        ("GET", "touch", 405),
        ("POST", "status", 405),
        ("HEAD", "status", 405),
        ("BREW", "status", 405),
        ("GET", "", 404),
        ("GET", "../etc/passwd", 404),
        ("PUT", "fence/", 404),
        ("PUT", "fence/xyz", 400),
        ("PUT", f"fence/{A[:-1]}", 400),
        ("PUT", f"fence/{A}a", 400),
        ("PUT", f"fence/{A}%0a", 400),
        ("GET", f"fence/{A}", 405),
        ("PUT", f"fence/{A}/commit", 405),
        ("POST", f"fence/{A}/commit/x", 404),
    ):
        assert machine.ask(method, path)[0] == status, (method, path)
    for line in (b"", b"GET", b"\x00\xff", b"GET / HTTP/9.9", b"GET " + b"x" * 70000):
        machine.raw(line + b"\r\n\r\n")
    assert machine.status()["v"] == 1


def test_slow_and_silent_askers_hold_nobody_up(machine: Machine) -> None:
    links = []
    for part in (b"", b"GET /.exoll", b"POST /.exollama/touch HTTP/1.1\r\nContent-Length: 10\r\n\r\nx"):
        for _ in range(10):
            link = socket.socket(socket.AF_UNIX)
            link.connect(str(machine.run / "agent.sock"))
            link.sendall(part)
            links.append(link)
    began = time.monotonic()
    assert machine.status()["v"] == 1
    assert time.monotonic() - began < 2
    for link in links:
        link.close()


def test_of_many_at_once_one_gets_the_fence(machine: Machine) -> None:
    owners = [f"{n:032x}" for n in range(12)]
    answers: dict[str, int] = {}
    threads = [
        threading.Thread(target=lambda o=owner: answers.__setitem__(o, machine.ask("PUT", f"fence/{o}")[0]))
        for owner in owners
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers.values()) == [201] + [409] * 11


# -- the watchdog, for real


@policy(idle_s=60)
def test_a_machine_that_nobody_reaps_powers_itself_off_behind_its_fence(machine: Machine) -> None:
    machine.advance(955)
    time.sleep(1.5)
    assert not machine.off.exists()
    machine.advance(10)
    until(machine.powered_off, "the power-off")
    assert machine.off.read_text() == "poweroff\n"
    assert machine.status()["fence"]["committed"] is True


@policy(idle_s=60)
def test_a_machine_in_use_never_powers_itself_off_until_its_deadline(machine: Machine) -> None:
    host, _, port = machine.upstream.rpartition(":")
    with socket.create_connection((host, int(port))):
        machine.advance(50_000)
        time.sleep(1.5)
        machine.advance(50_000)
        time.sleep(1.5)
        assert not machine.off.exists()


# Reckoned from when the tests were collected, which may be many minutes ago.
@policy(deadline=int(time.time()) + 100_000)
def test_past_the_deadline_and_its_grace_it_goes_whatever_is_in_flight(machine: Machine) -> None:
    host, _, port = machine.upstream.rpartition(":")
    with socket.create_connection((host, int(port))):
        machine.advance(100_000)
        time.sleep(1.5)
        assert not machine.off.exists()
        machine.advance(3600)
        until(machine.powered_off, "the power-off")


def test_an_abandoned_commit_ends_in_a_power_off_across_a_restart(machine: Machine) -> None:
    machine.ask("PUT", f"fence/{A}")
    assert machine.ask("POST", f"fence/{A}/commit")[0] == 200
    machine.advance(590)
    machine.restart()
    time.sleep(1.2)
    assert not machine.off.exists()
    machine.advance(15)
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_another_ones_lease_is_waited_for(machine: Machine) -> None:
    machine.advance(850)
    assert machine.ask("PUT", f"fence/{A}")[0] == 201
    machine.advance(115)
    time.sleep(1.5)
    assert not machine.off.exists()
    machine.advance(10)
    until(machine.powered_off, "the power-off after the lease")


def test_a_failed_boot_powers_off_after_a_while_and_says_why_until_then(machine: Machine) -> None:
    machine.place("/var/log/exollama/boot.log").write_text("one\ntwo\n")
    machine.boot("image", error={"phase": "image", "message": "no such tag"})
    boot = machine.status()["boot"]
    assert (boot["phase"], boot["log"]) == ("failed", ["one", "two"])
    assert boot["error"] == {"phase": "image", "message": "no such tag"}
    machine.advance(890)
    time.sleep(1.2)
    assert not machine.off.exists()
    machine.advance(15)
    until(machine.powered_off, "the power-off")


@policy(boot_s=100)
def test_a_boot_that_never_ends_powers_off_even_where_bootstrap_never_ran(machine: Machine) -> None:
    (machine.run / "boot.json").unlink()
    assert machine.status()["boot"]["phase"] == "starting"
    machine.advance(980)
    machine.restart()
    time.sleep(1.2)
    assert not machine.off.exists()
    machine.advance(30)
    until(machine.powered_off, "the power-off")


@policy(idle_s=60)
def test_a_power_off_that_fails_is_tried_again(machine: Machine) -> None:
    machine.stub("systemctl", f"echo tried >> {machine.off}; exit 1")
    machine.advance(970)
    until(machine.off.exists, "the first attempt")
    machine.stub("systemctl", f'echo "$@" >> {machine.off}')
    machine.advance(700)  # its own commit has been abandoned by now
    until(machine.powered_off, "the next attempt")
