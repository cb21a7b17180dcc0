"""How long one call may take where a platform ends it: near the end nothing new is begun, so that all ends in time.

What runs under it raises OutOfTime from its sleeps, calls and progress. That is what a killed process would have left
behind, only in order; every verb goes on from there when it is called again. Neighbours: `functions.faas` gives one to
each call. Imports `client` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from client.errors import OutOfTime
from client.transport import Request, Response, Send

if TYPE_CHECKING:
    from client.boot import Progress

_BEGINNING: Final = 2 / 3
"""The part of the time in which things are begun; the rest is for what was begun."""
_LEAST_S: Final = 1.0
"""What a request is given at least."""
_LATE_S: Final = 60.0
"""How long after its end a process that goes on may still do what an instance has committed to; one that was frozen in
between and thaws hours later may not: the instance has been started again by then, perhaps."""


class Budget:
    """`total_s` seconds from now on."""

    def __init__(
        self,
        total_s: float,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total_s = total_s
        self._sleep = sleep
        self._monotonic = monotonic
        self._began = monotonic()

    @property
    def left_s(self) -> float:
        """How many of them are left."""
        return self.total_s - (self._monotonic() - self._began)

    def check(self, more_s: float = 0.0) -> None:
        """Raise OutOfTime where nothing is to be begun any more, or will not be in `more_s` seconds."""
        if self.left_s - more_s <= self.total_s * (1 - _BEGINNING):
            raise OutOfTime(
                f"The {self.total_s:.0f} s that this call was given are nearly over. The next one goes on from here."
            )

    def sleep(self, seconds: float) -> None:
        """Sleep, unless that were too long."""
        self.check(seconds)
        self._sleep(seconds)

    def send(self, send: Send) -> Send:
        """The same within the time. What an instance has committed to is asked for in any case."""

        def sending(request: Request) -> Response:
            committed = request.method == "DELETE" or request.url.endswith(":stop")
            if not committed or self.left_s < -_LATE_S:
                self.check()
            timeout_s = min(request.timeout_s, max(self.left_s, _LEAST_S))
            return send(request._replace(timeout_s=timeout_s))

        return sending

    def progress(self, progress: Progress) -> Progress:
        """The same, which ends what only streams and never sleeps."""

        def going_on(phase: str, percent: float | None, elapsed_s: float) -> None:
            progress(phase, percent, elapsed_s)
            self.check()

        return going_on
