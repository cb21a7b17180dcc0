"""Ctrl-C and SIGTERM as exceptions that are raised until they arrive.

Python drops what a signal's handler raises while an object is being taken apart (a finalizer, a weakref's callback), as
most answers of the API are: one signal in some thousand, and whoever sent it waits for an end that does not come.
Neighbours: `client.cli` listens around each verb, and says how it ended. `chat` and `serve` hear Ctrl-C themselves.
"""

import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

AGAIN_S: Final = 0.5
"""How often it is looked whether what was raised is still on its way."""
STUCK_S: Final = 60.0
"""What unwinds for so long waits for a lock, say, that was to be released just when the signal came."""
_TIMED: Final = hasattr(signal, "setitimer")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. Python's own class takes no weak reference."""


@contextmanager
def arriving(terminated: type[BaseException], *, ctrl_c: bool) -> Iterator[None]:
    """Within the block SIGTERM raises `terminated`, and Ctrl-C, if wanted and not ignored, Interrupted.

    What was raised and then lost is raised anew; while it unwinds the block nothing is, for STUCK_S at least: a fence
    is lifted meanwhile, say. For the main thread; without setitimer (Windows) each is raised once.
    """
    kinds: dict[int, type[BaseException]] = {signal.SIGTERM: terminated}
    if ctrl_c and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        kinds[signal.SIGINT] = Interrupted
    raising = _Raising(kinds)
    handlers: dict[int, Any] = {signal.SIGALRM: raising.looked} if _TIMED else {}
    handlers |= dict.fromkeys(kinds, raising.heard)
    before: dict[int, Any] = {}
    try:
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
        yield
    finally:
        if _TIMED:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in reversed(before.items()):  # SIGALRM's last: one that comes meanwhile sets the timer
            signal.signal(number, handler or signal.SIG_DFL)  # None: one of somebody's C


class _Raising:
    """What was raised last, held weakly: it lives as long as something unwinds with it."""

    def __init__(self, kinds: dict[int, type[BaseException]]) -> None:
        self._kinds = kinds
        self._number = 0
        self._raised: Callable[[], BaseException | None] = lambda: None
        self._at = 0.0

    def heard(self, number: int, _frame: FrameType | None) -> None:
        """A signal's handler."""
        self._number = number
        if _TIMED:
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
        raise self._fresh()

    def looked(self, _number: int, _frame: FrameType | None) -> None:
        """SIGALRM's handler: raise it again where nothing unwinds with it any more, or for too long."""
        if self._raised() is None or time.monotonic() - self._at >= STUCK_S:
            raise self._fresh()

    def _fresh(self) -> BaseException:
        # In a frame of its own: one that the traceback holds must not hold what is raised.
        end = self._kinds[self._number]()
        self._raised, self._at = weakref.ref(end), time.monotonic()
        return end
