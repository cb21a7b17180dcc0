"""A verb at a terminal of its own: a pty that it controls, somebody who types, and what stands on its screen."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.machine import process_state
from tests.system.verbs import ROOT, User

CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"
_LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
"""Makes the pty the terminal whose Ctrl-C is a signal; a fork of this process, which has threads, could not."""


class Keyboard:
    """Types, and reads what comes; `raw` is everything so far."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.raw = ""
        self._master = master
        self._seen = 0

    def type(self, *keys: str) -> None:
        """Press keys. What is looked for from now on is what comes after.

        Ctrl-C waits until the verb does: what it wrote last may be there just before it begins to wait for a key, or
        for an answer, and a signal in between is heard at the next key.
        """
        if CTRL_C in keys:
            self.until(lambda: process_state(self.process.pid) in "SZ")
        self._read(0.0)
        self._seen = len(self.raw)
        os.write(self._master, "".join(keys).encode())

    @property
    def screen(self) -> str:
        """What came since the last key, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw[self._seen :])

    def until(self, so: str | Callable[[], object], timeout_s: float = 20) -> str:
        """Read until these words stand on the screen, or something is so; returns the screen."""
        deadline = time.monotonic() + timeout_s
        while not (so in self.screen if isinstance(so, str) else so()):
            assert time.monotonic() < deadline, f"not so after {timeout_s} s: {so}\n{self.raw!r}"
            self._read(0.02)
        return self.screen

    def prompt(self) -> str:
        """Read until it is ready for the next prompt."""
        return self.until(lambda: self.screen.endswith(">>> "))

    def end(self, timeout_s: float = 10, *, insist: str = "") -> int:
        """Read to its end, and return its exit code. `insist`: a key that is pressed again each two seconds.

        Python's input() sleeps on where a signal comes between its prompt and its wait for a key.
        """
        began, pressed = time.monotonic(), 0
        while self.process.poll() is None:
            elapsed_s = time.monotonic() - began
            assert elapsed_s < timeout_s, f"not ended after {timeout_s} s\n{self.raw!r}"
            if insist and elapsed_s >= 2 * pressed:
                pressed += 1
                self.type(insist)
            self._read(0.02)
        self._read(0.0)
        return self.process.returncode

    def _read(self, timeout_s: float) -> None:
        while select.select([self._master], [], [], timeout_s)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                time.sleep(timeout_s)
                return
            self.raw += data.decode("utf-8", "replace")
            timeout_s = 0.0


@contextmanager
def typing(user: User, *arguments: str, **env: str | None) -> Iterator[Keyboard]:
    """A verb that runs at a terminal; whatever is left of it at the end of the block is killed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, *user.command("client", *arguments)],
        cwd=ROOT,
        env=user.environment(**{"TERM": "xterm", "NO_COLOR": None, **env}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Keyboard(process, master)
    finally:
        process.kill()
        process.wait(10)
        os.close(master)
