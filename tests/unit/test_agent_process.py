"""The agent as a process: what it answers, counts and keeps, and the fence."""

import ast
import hashlib
import hmac
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.unit.machine import KEY, ROOT, A, B, Machine, policy, until


@pytest.mark.parametrize("name", ["agent.py", "bootstrap.py", "commands.py", "door.py", "gpu.py", "rules.py"])
def test_what_runs_on_the_instance_is_python_3_10(name: str) -> None:
    source = (ROOT / "cloudinit" / name).read_text()
    tree = ast.parse(source, feature_version=(3, 10))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in imported} <= sys.stdlib_module_names | {
        "bootstrap",
        "commands",
        "door",
        "gpu",
        "rules",
    }
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
    assert machine.status()["idle_s"] < 50
    machine.advance(100)
    with machine.activity.open("a") as log:
        log.write(".\n.\n")
    status = machine.status()
    assert (status["requests"], status["idle_s"] < 50) == (2, True)
    machine.advance(100)
    assert machine.status()["idle_s"] >= 100
    machine.boot("model")
    assert machine.status()["idle_s"] < 50
    machine.boot("ready")
    machine.advance(50)
    assert 50 <= machine.status()["idle_s"] < 60


def test_in_flight_is_the_kernels_count_and_keeps_the_machine_busy(machine: Machine) -> None:
    host, _, port = machine.upstream.rpartition(":")
    streams = [socket.create_connection((host, int(port))) for _ in range(3)]
    machine.advance(5000)
    assert machine.status()["in_flight"] == 3
    until(lambda: machine.status()["idle_s"] < 2, "a look at them that takes them for more than listings")
    assert machine.ask("PUT", f"fence/{A}")[0] == 201
    assert machine.ask("POST", f"fence/{A}/commit") == (409, {"error": "3 in flight"})
    for stream in streams:
        stream.close()
    until(lambda: machine.status()["in_flight"] == 0, "no connection")
    assert machine.ask("POST", f"fence/{A}/commit")[0] == 200
    assert not machine.off.exists()


def test_a_stream_that_ends_between_two_questions_was_activity(machine: Machine) -> None:
    machine.advance(5000)
    machine.looked()
    host, _, port = machine.upstream.rpartition(":")
    with socket.create_connection((host, int(port))):
        until(lambda: machine.noted()[-1] < 60, "a look by itself that takes it for more than a listing")
    assert machine.status()["idle_s"] < 60


@policy(listing_s=30)
def test_requests_that_end_at_once_are_no_activity_unless_nginx_logged_them(machine: Machine) -> None:
    """As a dashboard's that lists models: however often it is seen, it keeps nothing alive."""
    machine.advance(5000)
    host, _, port = machine.upstream.rpartition(":")
    for _ in range(30):
        with socket.create_connection((host, int(port))):
            assert machine.status()["in_flight"] == 1
    assert machine.status()["idle_s"] > 4990


def test_the_fence_is_a_file_while_it_stands_and_is_kept_through_restarts(machine: Machine) -> None:
    fence = machine.run / "fence"
    began = time.monotonic()
    assert machine.ask("PUT", f"fence/{A}") == (201, {"lease_s": 120.0, "committed": False, "committed_s": None})
    assert time.monotonic() - began >= 0.1, "the answer waits for workers on their way"
    assert fence.exists()
    machine.advance(60)
    machine.restart()
    assert 30 < machine.status()["fence"]["lease_s"] <= 60
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
    assert 500 <= machine.status()["idle_s"] < 560
    machine.stop()
    machine.activity.write_text(".\n")
    machine.start()
    assert machine.status()["idle_s"] < 60


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
    assert time.monotonic() - began < 8, "it waited for them: they have ten seconds"
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


BUSY = '''
import subprocess, sys
worker = """
import pathlib, sys, time
fence, spins, slept = map(pathlib.Path, sys.argv[1:])
spins.touch()
while not fence.exists(): pass
end = time.monotonic() + 0.5
while time.monotonic() < end: pass
slept.touch()
time.sleep(60)
"""
subprocess.run([sys.executable, "-c", worker, *sys.argv[1:]])
'''


def test_a_fence_is_answered_once_every_worker_of_nginx_has_slept_since_it_stands(machine: Machine) -> None:
    """On a machine whose processors are taken, one may be between its look at the fence and its connect() for long."""
    fence, spins, slept = machine.run / "fence", machine.root / "spins", machine.root / "slept"
    argv = [sys.executable, "-c", BUSY, *map(str, (fence, spins, slept))]
    with subprocess.Popen(argv, start_new_session=True) as nginx:
        try:
            (machine.run / "nginx.pid").write_text(f"{nginx.pid}\n")
            until(spins.exists, "its worker is busy")
            assert machine.ask("PUT", f"fence/{A}")[0] == 201
            assert slept.exists()
        finally:
            os.killpg(nginx.pid, signal.SIGKILL)
