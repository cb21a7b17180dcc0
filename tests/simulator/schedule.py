"""Deeds that fall due: one thread that runs callables at their time, so that operations are asynchronous."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import traceback
from collections.abc import Callable


class Schedule:
    """Runs callables in order of their due time, on one thread; what a callable raises goes to `report`."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wake = threading.Condition()
        self._closed = self._busy = False
        self._thread = threading.Thread(target=self._run, name="simulator-schedule", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def after(self, seconds: float, deed: Callable[[], None]) -> None:
        """Run `deed` so many real seconds from now; nothing after close."""
        with self._wake:
            if not self._closed:
                heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), deed))
                self._wake.notify()

    @property
    def late(self) -> bool:
        """Whether something was due before now and is not done yet."""
        with self._wake:
            return self._busy or bool(self._due and self._due[0][0] < time.monotonic())

    def close(self) -> None:
        """Drop what is not yet due and wait for what is running."""
        with self._wake:
            self._closed = True
            self._due.clear()
            self._wake.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(30)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and (not self._due or self._due[0][0] > time.monotonic()):
                    self._wake.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._closed:
                    return
                _, _, deed = heapq.heappop(self._due)
                self._busy = True
            try:
                deed()
            except Exception:  # noqa: BLE001 - a thread of its own; the test is told
                self._report(traceback.format_exc())
            finally:
                self._busy = False
