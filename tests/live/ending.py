"""The end of a run: Ctrl-C, SIGTERM, a closed terminal or the end of its time, once and never while tidying.

Imports nothing of the project.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final, Self

_SIGNALS: Final = {
    signal.SIGINT: ("interrupted", 130),
    signal.SIGTERM: ("terminated", 143),
    signal.SIGHUP: ("its terminal was closed", 129),
    signal.SIGALRM: ("its time is over", 1),
}


class Ended(BaseException):
    """The run is to end now; no Exception, so that no check takes it for an answer."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


class Ending:
    """Between `arm` and `disarm` the first of these signals raises Ended; all later ones are told and ignored."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._raising: frozenset[int] = frozenset()
        self._before: dict[int, Any] = {}
        self._timer = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._timer = signal.getitimer(signal.ITIMER_REAL)
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        self.disarm()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, *self._timer)

    def arm(self, limit_s: float, *, by_signals: bool) -> None:
        """From now on Ended may be raised: after `limit_s` seconds of wall clock, and by signals if so wanted."""
        self._raising = frozenset(_SIGNALS if by_signals else (signal.SIGALRM,))
        signal.setitimer(signal.ITIMER_REAL, limit_s)

    def disarm(self) -> None:
        """Nothing is raised any more."""
        self._raising = frozenset()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self, number: int, _: FrameType | None) -> None:
        why, code = _SIGNALS[signal.Signals(number)]
        if number in self._raising:
            self._raising = frozenset()  # before it is raised: what follows must not be interrupted
            raise Ended(why, code)
        with suppress(RuntimeError):  # in the middle of another print, which may not be begun again
            self._note(f"({why}; what was made is being removed all the same)")
