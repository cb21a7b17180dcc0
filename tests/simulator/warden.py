"""The process that owns all others: it starts them, reports their end, and ends them when the simulator is gone.

Run as a script with a socket on file descriptor 0. One thread, so that PR_SET_PDEATHSIG (which is bound to the thread
that forks) and preexec_fn are safe; a child subreaper, so that whatever a child leaves behind becomes the warden's own
and is found. It ends with the socket: also where the simulator was killed outright. Linux only.

Lines of JSON on the socket:
  in  {"do": "start", "id": n, "argv": [...], "env": {...}, "cwd": path, "log": path}
      {"do": "signal", "id": n, "signal": 9}      to the process group of n; with 9, to all its descendants too
  out {"id": n, "pid": n} or {"id": n, "error": text}, later {"id": n, "exit": status}
Standard library only; imports nothing of the project.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """All descendants of a process, from /proc."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                below.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    stack = [pid]
    while stack:
        found += (step := below.get(stack.pop(), []))
        stack += step
    return found


class Warden:
    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.started: dict[int, subprocess.Popen[bytes]] = {}
        self.pending = b""

    def run(self) -> None:
        """Serve until the other end closes."""
        parent = os.getppid()
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)
        selector = selectors.DefaultSelector()
        selector.register(self.link, selectors.EVENT_READ)
        selector.register(wake_r, selectors.EVENT_READ)
        while os.getppid() == parent:  # a forked copy of the simulator may hold the socket open after its death
            for key, _ in selector.select(1):
                if key.fileobj is self.link:
                    data = self.link.recv(1 << 20)
                    if not data:
                        return
                    *lines, self.pending = (self.pending + data).split(b"\n")
                    for line in lines:
                        self.do(json.loads(line))
                else:
                    os.read(wake_r, 4096)
            self.reap()

    def do(self, order: dict[str, Any]) -> None:
        if order["do"] == "start":
            self.start(order)
        elif order["id"] in self.started:
            process = self.started[order["id"]]
            self.signal(process.pid, order["signal"])

    def start(self, order: dict[str, Any]) -> None:
        try:
            with open(order["log"], "ab") as log:
                process = subprocess.Popen(
                    order["argv"],
                    env=order["env"],
                    cwd=order["cwd"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 - there are no threads here
                )
        except OSError as error:
            self.say({"id": order["id"], "error": str(error)})
            return
        self.started[order["id"]] = process
        self.say({"id": order["id"], "pid": process.pid})

    def signal(self, pid: int, number: int) -> None:
        below = children(pid) if number == signal.SIGKILL else []
        for target, send in [(pid, os.killpg), *((child, os.kill) for child in below)]:
            try:
                send(target, number)
            except (ProcessLookupError, PermissionError):
                pass

    def reap(self) -> None:
        for id_, process in list(self.started.items()):
            status = process.poll()
            if status is not None:
                self.signal(process.pid, signal.SIGKILL)  # what it left in its group
                del self.started[id_]
                self.say({"id": id_, "exit": status})
        known = {process.pid for process in self.started.values()}
        while True:  # adopted orphans
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if info is None or info.si_pid in known:
                    return
                os.waitpid(info.si_pid, 0)
            except ChildProcessError:
                return

    def say(self, line: dict[str, Any]) -> None:
        try:
            self.link.sendall(json.dumps(line).encode() + b"\n")
        except OSError:
            pass  # the end of file follows

    def end(self) -> None:
        """Nothing of ours is alive when this returns."""
        for process in self.started.values():
            self.signal(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (left := children(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.005)


def main() -> None:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    warden = Warden(socket.socket(fileno=os.dup(0)))
    try:
        warden.run()
    finally:
        warden.end()
        shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
