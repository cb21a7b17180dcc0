"""A test run keeps to itself: loopback only, no inherited settings, leftovers noticed."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import isolation


@pytest.mark.parametrize("address", [("192.0.2.1", 443), ("2001:db8::1", 443), ("0.0.0.0", 80)])
def test_reaching_for_another_machine_raises_what_no_except_exception_hides(
    network: isolation.NetworkGuard, address: tuple[str, int]
) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as sock, pytest.raises(isolation.NetworkAccessError) as refusal:
        sock.connect(address)
    assert not isinstance(refusal.value, Exception)
    assert network.refused.pop()


def test_a_datagram_to_another_machine_is_refused(network: isolation.NetworkGuard) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(isolation.NetworkAccessError):
        sock.sendto(b"x", ("192.0.2.1", 53))
    assert network.refused.pop()


@pytest.mark.parametrize("host", ["api-ch-gva-2.exoscale.com", b"example.org"])
def test_resolving_a_name_is_refused(network: isolation.NetworkGuard, host: str | bytes) -> None:
    with pytest.raises(isolation.NetworkAccessError):
        socket.getaddrinfo(host, 443)
    assert network.refused.pop()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost"])
def test_loopback_is_open(host: str) -> None:
    with socket.create_server((host, 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass


def test_settings_credentials_and_proxies_are_not_inherited(tmp_path: Path) -> None:
    environ = {"EXOSCALE_API_KEY": "k", "GARUDA_X": "1", "https_proxy": "p", "NO_PROXY": "*", "PATH": "/bin"}
    isolation.isolate(environ, tmp_path)
    assert {"EXOSCALE_API_KEY", "GARUDA_X", "https_proxy", "NO_PROXY"}.isdisjoint(environ)
    assert (environ["PATH"], environ["HOME"]) == ("/bin", str(tmp_path))


def test_this_run_is_isolated() -> None:
    assert not [name for name in os.environ if name.startswith("EXOSCALE_")]
    assert "exollama-home-" in os.environ["HOME"]


def test_a_running_thread_is_a_leftover() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="straggler")
    thread.start()
    try:
        assert "thread straggler" in isolation.leftovers(wait_s=0)
    finally:
        end.set()
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_a_process_whose_parent_has_gone_is_still_a_leftover() -> None:
    child = "import subprocess as s; print(s.Popen(['sleep', '30'], stdout=-3, stderr=-3).pid)"
    command = [sys.executable, "-W", "ignore", "-c", child]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    pid = int(run.stdout)
    try:
        assert any(f"process {pid}: sleep" in name for name in isolation.leftovers(wait_s=0))
    finally:
        os.kill(pid, 9)
