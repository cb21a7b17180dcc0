"""What a person sees on stderr: whole sentences, and a live line while something long is under way.

The live line (`client.pace`: phase, percent, seconds, how long it may take) is drawn on a terminal that can take it
back; in a pipe, a log or a dumb terminal there are the sentences alone. NO_COLOR (https://no-color.org) is respected.
"""

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
from typing import TextIO

from client.pace import Pace

TICK_S = 1.0
_CLEARED = "\r\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[m"


def is_coloured(stream: TextIO) -> bool:
    """Whether what is written there may have colours."""
    return _is_able(stream) and not os.environ.get("NO_COLOR")


def _is_able(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Terminal:
    """Notes and progress on one stream, from any thread; a note first clears the live line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = _is_able(self._stream)
        self._coloured = is_coloured(self._stream)
        self._pace = Pace()
        self._drawn = ""
        self._told: tuple[str, float | None, float] = ("", None, 0.0)
        self._over: threading.Event | None = None
        """Set once the live line that stands is to go; None where none stands."""
        self._lock = threading.RLock()

    def note(self, sentence: str) -> None:
        """Print one sentence."""
        with self._lock:
            self.clear()
            print(f"exollama: {sentence}", file=self._stream, flush=True)

    def progress(self, phase: str, percent: float | None, elapsed_s: float) -> None:
        """Draw the live line, whose seconds go on until it is cleared or drawn anew. A `client.boot.Progress`."""
        if not self._live:
            return
        with self._lock:
            self._told = phase, percent, elapsed_s - time.monotonic()
            self._draw()
            if self._over is None:
                self._over = threading.Event()
                threading.Thread(target=self._tick, args=(self._over,), name="exollama-live-line", daemon=True).start()

    def clear(self) -> None:
        """Remove the live line, before something else is printed."""
        with self._lock:
            if self._over:
                self._over.set()
                self._over, self._drawn = None, ""
                self._stream.write(_CLEARED)
                self._stream.flush()

    def _tick(self, over: threading.Event) -> None:
        """Whatever is waited for in one call, as the first token is, cannot tell that it goes on."""
        with contextlib.suppress(OSError, ValueError):  # the terminal has gone
            while not over.wait(TICK_S):
                with self._lock:
                    if not over.is_set():
                        self._draw()

    def _draw(self) -> None:
        phase, percent, since_s = self._told
        words = self._pace.words(phase, percent, max(0.0, since_s + time.monotonic()))
        columns = 0
        with contextlib.suppress(OSError):  # of this stream, as standard output may be a pipe
            columns = os.get_terminal_size(self._stream.fileno()).columns
        line = f"exollama: {words}"[: shutil.get_terminal_size((columns or 80, 24)).columns - 1]
        if line != self._drawn:
            self._drawn = line
            self._stream.write(_CLEARED + (f"{_DIM}{line}{_PLAIN}" if self._coloured else line))
            self._stream.flush()


class Notes(logging.Handler):
    """What is logged, as notes: it would stand behind the live line otherwise."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            self._terminal.note(self.format(record))
        except OSError:
            self.handleError(record)
