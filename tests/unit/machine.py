"""The agent as a process over its Unix socket, under Python 3.10 where there is one, else under this one.

Neighbours: conftest.py has the fixture; tests/system has the same behind the real nginx.
"""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

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


def until(true: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.01)


class Machine:
    """The files of an instance below one folder, and an agent that runs on them.

    The agent is the real one but for some lines: its watchdog looks five times a second, notes the idle seconds each
    time, and goes no further than to a look that condemns the machine while the file `thinks` is there; while `settles`
    is, no fence is answered; a busy worker is waited for longer; and a listing takes at most `listing_s`. The policy's
    deadline may be given as `deadline_in_s`.
    """

    def __init__(self, root: Path, *, listing_s: float = 0.9, deadline_in_s: int | None = None, **policy: Any) -> None:
        self.root = root
        for prefix in PREFIXES:
            self.place(prefix).mkdir(parents=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.upstream = f"127.0.0.1:{self.listener.getsockname()[1]}"
        defaults = {
            "v": 1, "request": "0" * 32, "name": "exollama", "model": "tiny", "image": "x", "idle_s": 1800,
            "boot_s": 1800, "retention_s": 86400, "deadline": deadline_in_s and int(time.time()) + deadline_in_s,
            "grace_s": 3600, "action": "destroy", "keep_failed": False, "upstream": self.upstream, "version": "0.0.0",
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
        texts = {name: (ROOT / "cloudinit" / name).read_text() for name in ("agent.py", "rules.py")}
        for prefix in PREFIXES:
            texts["agent.py"] = texts["agent.py"].replace(f'"{prefix}', f'"{self.place(prefix)}')
        self.looks, self.thinks, self.settles = root / "looks", root / "thinks", root / "settles"
        changed = {
            "            time.sleep(1)\n": "            time.sleep(0.2)\n",
            "    time.sleep(SETTLE_S)\n": "    time.sleep(SETTLE_S)\n"
            f"    while Path({str(self.settles)!r}).exists():\n        time.sleep(0.01)\n",
            "LOOK_S, LOOKS = 0.005, 400\n": "LOOK_S, LOOKS = 0.005, 4000\n",
            "LISTING_S = 0.9\n": f"LISTING_S = {listing_s}\n",
            "        policy = self.policy\n": f"        with open({str(self.looks)!r}, 'a') as looks:\n"
            "            print(idle_s, file=looks)\n"
            f"        while idle_s >= self.policy['idle_s'] + MARGIN_S and Path({str(self.thinks)!r}).exists():\n"
            "            __import__('time').sleep(0.01)\n        policy = self.policy\n",
        }
        for line, change in changed.items():
            [name] = [name for name, text in texts.items() if line in text]
            assert texts[name].count(line) == 1, line
            texts[name] = texts[name].replace(line, change)
        for name, text in texts.items():
            (root / name).write_text(text)
        self.program = root / "agent.py"
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
            answer = b""
            with suppress(ConnectionError):  # it may have answered before all of a request that is too long was sent
                link.sendall(request)
            with suppress(ConnectionError):
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
            with suppress(BrokenPipeError):  # answered before its body, which is too long
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

    def noted(self) -> list[float]:
        """The idle seconds at each of the watchdog's looks so far; the last may be half written."""
        text = self.looks.read_text() if self.looks.exists() else ""
        return [float(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def looked(self) -> None:
        """Until the watchdog has looked at the machine as it is now, and did what it does."""
        before = len(self.noted())
        # One may be under way already, and what the next one leads to is done before the one after it.
        until(lambda: len(self.noted()) >= before + 3, "the watchdog's looks")

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


def policy(**changes: Any) -> Callable[[Any], Any]:
    """The policy of the machine that a test runs on."""

    def mark(test: Any) -> Any:
        test.policy = changes
        return test

    return mark
