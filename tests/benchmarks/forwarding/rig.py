"""The rig: contestants alone on one processor, answers and loads on another; everything ended with it.

Processes belong to the simulator's warden, which ends them also where this one was killed. Loopback only.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.benchmarks.forwarding.answers import KEY, SHORT
from tests.simulator.processes import Process, Processes
from tests.simulator.services import nginx_binary
from tests.simulator.warden import children

ROOT = Path(__file__).parents[3]
HERE = "tests.benchmarks.forwarding"
_PATIENCE_S = 20.0

# One worker. What it may keep, it keeps; nothing is buffered, nothing logged.
_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    {server}
}}
"""
_FORWARDING = """
    upstream ollama {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass {scheme}://ollama;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Ollama-Key {key};
            proxy_ssl_protocols TLSv1.3;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
"""
_ANSWERING = """
    server {{
        listen 127.0.0.1:{port}{ssl} backlog=1024;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        default_type application/json;
        location / {{ return 200 '{answer}'; }}
    }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server of the rig: the port it listens on, and the process that does the work."""

    port: int
    pid: int


def processors() -> tuple[int, int] | None:
    """The contestants' processor and everything else's; None where there are not two."""
    found = sorted(os.sched_getaffinity(0))
    return (found[1], found[0]) if len(found) > 1 else None


class Rig:
    """A context: what is started in it ends with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="exollama-forwarding-"))
        self.certificate, self.key = self.folder / "cert.pem", self.folder / "key.pem"
        self.processors = processors()
        self._number = 0

    def __enter__(self) -> Rig:
        if self.processors:
            os.sched_setaffinity(0, {self.processors[1]})  # what is started inherits it
        self._processes = Processes(self.folder)
        try:
            self._certify()
        except BaseException:
            self._processes.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.close()

    def _certify(self) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        files = ["-keyout", str(self.key), "-out", str(self.certificate)]
        make = ["openssl", "req", "-x509", *curve, "-subj", "/CN=benchmark", *files]
        subprocess.run(make, check=True, capture_output=True)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()

    # -- servers

    def answers(self, *, tls: bool) -> Running:
        """What is forwarded to."""
        files = [str(self.certificate), str(self.key)] if tls else []
        return self._python("answers", *files)

    def forwarder(self, upstream: Running, *, tls: bool) -> Running:
        """The contestant."""
        found = self._python("forwarder", str(upstream.port), *([self.fingerprint] if tls else []))
        return self.pinned(found)

    def nginx(self, upstream: Running, *, tls: bool) -> Running:
        """Its reference, set up to do the same."""
        scheme = "https" if tls else "http"
        return self.pinned(self._nginx(_FORWARDING, upstream=upstream.port, scheme=scheme, key=KEY.decode()))

    def nginx_answers(self, *, tls: bool) -> Running:
        """One short answer to everything, at next to no cost."""
        files = {"certificate": self.certificate, "key": self.key}
        return self._nginx(_ANSWERING, ssl=" ssl" if tls else "", answer=SHORT.decode(), **files)

    def pinned(self, running: Running) -> Running:
        """Move it to the contestants' processor."""
        if self.processors:
            os.sched_setaffinity(running.pid, {self.processors[0]})
        return running

    def other(self, argv: Sequence[str], port: int, *, cwd: Path, env: dict[str, str]) -> Running:
        """Start some other server, which will listen on that port, on the contestants' processor."""
        process, log = self._start(argv, cwd=cwd, env=env)
        if self.processors:
            os.sched_setaffinity(process.pid, {self.processors[0]})
        self._await(process, log, port, patience_s=120)
        return Running(port=port, pid=process.pid)

    # -- loads

    def load(self, name: str, port: int, *options: object) -> dict[str, Any]:
        """Run one load of `calls` to its end."""
        return self._run("calls", name, port, *options)

    def programs(self, port: int, *options: object) -> dict[str, Any]:
        """Run PyPI's ollama to its end."""
        return self._run("programs", port, *options)

    def _run(self, module: str, *options: object) -> dict[str, Any]:
        argv = [sys.executable, "-m", f"{HERE}.{module}", *map(str, options)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv[2:])}:\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    # -- processes

    def _start(
        self, argv: Sequence[str], *, cwd: Path = ROOT, env: dict[str, str] | None = None
    ) -> tuple[Process, Path]:
        self._number += 1
        log = self.folder / f"{self._number}.log"
        process = self._processes.start(argv, env=env or dict(os.environ), cwd=cwd, log=log)
        if process.error:
            raise RuntimeError(f"{argv[0]}: {process.error}")
        return process, log

    def _python(self, module: str, *args: str) -> Running:
        process, log = self._start([sys.executable, "-m", f"{HERE}.{module}", *args])
        until = time.monotonic() + _PATIENCE_S
        while not (said := log.read_text()).endswith("}\n"):
            self._alive(process, log, until)
        return Running(port=json.loads(said)["port"], pid=process.pid)

    def _nginx(self, server: str, **values: object) -> Running:
        port = free_port()
        folder = self.folder / f"nginx-{port}"
        folder.mkdir()
        config = folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, server=server.format(port=port, **values)))
        process, log = self._start([nginx_binary(), "-e", str(folder / "start.log"), "-c", str(config)])
        self._await(process, log, port)
        until = time.monotonic() + _PATIENCE_S
        while not (workers := children(process.pid)):  # it listens before it has one
            self._alive(process, log, until)
        (worker,) = workers
        return Running(port=port, pid=worker)

    def _await(self, process: Process, log: Path, port: int, patience_s: float = _PATIENCE_S) -> None:
        until = time.monotonic() + patience_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                self._alive(process, log, until)
            else:
                return

    @staticmethod
    def _alive(process: Process, log: Path, until: float) -> None:
        if not process.alive or time.monotonic() > until:
            raise RuntimeError(f"a server did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
