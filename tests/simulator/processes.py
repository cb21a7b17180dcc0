"""The simulator's side of the warden: start processes, hear of their end, end them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Process:
    """One process that the warden started; `pid` is its group's id too."""

    def __init__(self, processes: Processes, id_: int, on_exit: Callable[[int], None] | None) -> None:
        self._processes = processes
        self._id = id_
        self._on_exit = on_exit
        self._known = threading.Event()
        self._ended = threading.Event()
        self.pid = 0
        self.error: str | None = None
        self.status: int | None = None

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    def signal(self, number: int) -> None:
        """Send a signal to its group; SIGKILL reaches all of its descendants."""
        self._processes.order({"do": "signal", "id": self._id, "signal": number})

    def kill(self) -> None:
        """End it and all of its descendants now, without telling `on_exit`."""
        self._on_exit = None
        self.signal(signal.SIGKILL)
        self.wait(10)

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status, or None when it still runs after so long."""
        self._ended.wait(seconds)
        return self.status

    def heard(self, line: Mapping[str, Any]) -> None:
        if "pid" in line:
            self.pid = line["pid"]
            self._known.set()
            return
        self.error = line.get("error")
        self.status = line.get("exit", 127)
        self._known.set()
        self._ended.set()
        if self._on_exit:
            self._on_exit(self.status or 0)

    def never(self, why: str) -> None:
        """It will not run; whoever asked for it hears so at once, and not through `on_exit`."""
        self.error, self.status = why, 127
        self._known.set()
        self._ended.set()

    def wait_known(self) -> None:
        """Until it runs or could not be started."""
        self._known.wait(30)


class Processes:
    """All processes of one simulator."""

    def __init__(self, base: Path) -> None:
        """`base` is removed by the warden once everything has ended."""
        ours, theirs = socket.socketpair()
        self._link = ours
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._started: dict[int, Process] = {}
        self._closed = self._ended = False
        self._warden = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("warden.py")), str(base)],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._reader = threading.Thread(target=self._read, name="simulator-warden", daemon=True)
        self._reader.start()

    @property
    def warden_pid(self) -> int:
        return int(self._warden.pid)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        on_exit: Callable[[int], None] | None = None,
    ) -> Process:
        """Start one process in a session of its own, its output in `log`; `on_exit` runs on the reader's thread."""
        with self._lock:
            id_ = next(self._ids)
            process = self._started[id_] = Process(self, id_, on_exit)
            if self._ended:
                process.never("the warden has ended")
                return process
        order = {
            "do": "start",
            "id": id_,
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd),
            "log": str(log),
        }
        self.order(order)
        process.wait_known()
        return process

    def order(self, order: Mapping[str, Any]) -> None:
        with self._lock:
            try:
                self._link.sendall(json.dumps(order).encode() + b"\n")
            except OSError:
                pass  # closed: everything has ended

    def pids(self) -> list[int]:
        """The processes that run now, without their descendants."""
        return [process.pid for process in list(self._started.values()) if process.alive]

    def close(self) -> None:
        """End every process and the warden; returns when all are gone."""
        self._closed = True
        try:
            self._link.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        self._warden.wait(30)
        self._reader.join(10)
        self._link.close()

    def _read(self) -> None:
        pending = b""
        while True:
            try:
                data = self._link.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for raw in lines:
                line = json.loads(raw)
                process = self._started.get(line["id"])
                if process:
                    if "pid" not in line:
                        self._started.pop(line["id"], None)
                    process.heard(line)
        with self._lock:
            self._ended = True  # whoever asks for a process from here on would wait for one that nobody starts
            left = list(self._started.values())
        for process in left:
            # Killed by itself, the warden takes its children along, but nginx's workers are theirs.
            if process.pid and not self._closed:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.heard({"exit": -signal.SIGKILL})
