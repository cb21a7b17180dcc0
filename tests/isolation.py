"""Keeps a test run to itself: its own environment, loopback only, nothing left running afterwards.

Standard library only; tests/conftest.py switches it on.
"""

import ipaddress
import os
import sys
import threading
import time
import uuid
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

_RESOLVING = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
_SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_SERVE = ("EXOLLAMA_PROVISION_URL", "EXOLLAMA_FUNCTION_", "EXOLLAMA_SERVE_TOKEN")
_MARK = "EXOLLAMA_TEST_RUN"


class NetworkAccessError(BaseException):
    """A test reached for the network: no Exception, so that no `except Exception` hides it."""


class NetworkGuard:
    """Refuses to resolve or reach anything but loopback, in this process, from any library, for good."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def install(self) -> None:
        sys.addaudithook(self._hook)  # below every library that opens sockets, and cannot be patched away

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _RESOLVING:
            allowed = _resolves_here(args[0])
        elif event in _SENDING:
            allowed = _is_here(args[1])
        else:
            return
        if not allowed:
            self.refused.append(f"{event}{args[-1] if event in _SENDING else args[0]!r}")
            raise NetworkAccessError(f"a test must not leave this machine: {self.refused[-1]}")


def _is_here(address: object) -> bool:
    if not isinstance(address, tuple) or not address or not isinstance(address[0], str):
        return True  # a Unix socket's path, a connected socket, netlink
    try:
        return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


def _resolves_here(host: object) -> bool:
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii", "replace")
    if not host or host == "localhost":
        return True
    try:
        ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return True  # a literal asks nobody; connecting to it is checked by itself


def isolate(environ: MutableMapping[str, str], home: Path) -> None:
    """Take settings, credentials and proxies out of `environ`, and put its home and caches below `home`."""
    for name in list(environ):
        if name.startswith(("EXOSCALE_", "GARUDA_", "OLLAMA_", *_SERVE)) or name.lower().endswith("_proxy"):
            del environ[name]
    environ.update(
        HOME=str(home),
        XDG_CACHE_HOME=str(home / ".cache"),
        XDG_CONFIG_HOME=str(home / ".config"),
        XDG_RUNTIME_DIR=str(home),
        XDG_STATE_HOME=str(home / ".local/state"),
    )
    environ[_MARK] = uuid.uuid4().hex  # inherited by every process that a test starts


def leftovers(*, wait_s: float = 3.0) -> list[str]:
    """Name the threads and processes of this run that still live after `wait_s` seconds of grace."""
    until = time.monotonic() + wait_s
    while (found := [*_threads(), *_processes()]) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _threads() -> list[str]:
    return [f"thread {t.name}" for t in threading.enumerate() if t is not threading.main_thread()]


def _processes() -> list[str]:
    """Name the live children of this process and whoever else carries this run's mark (on Linux only)."""
    mine, mark = str(os.getpid()), f"{_MARK}={os.environ.get(_MARK, '-')}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if entry.name == mine:
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and (parent == mine or mark in (entry / "environ").read_bytes().split(b"\0")):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"process {entry.name}: {command.strip()[:200]}")
        except (OSError, ValueError):
            continue  # ended meanwhile, or somebody else's
    return found
