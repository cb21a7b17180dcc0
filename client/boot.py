"""Waiting until an instance is ready, saying what it is doing meanwhile.

Neighbours: `functions.provisioning` waits so after a create, `client.session` where somebody else's boot is under way.
Imports errors and model only.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Protocol

from client.errors import ApiError, BootFailed, Draining, NotFound, OllamaError, Unreachable, Untrusted
from client.model import Instance, number, printable

log = logging.getLogger("exollama.boot")

Progress = Callable[[str, float | None, float], None]
"""Called as progress(phase, percent or None, seconds so far) while something long is under way."""

POLL_S = 0.5
"""Ready is to be noticed within a second of its being so."""
LOOK_S = 10.0
UNREACHABLE = "unreachable"
"""The phase of a BootFailed where the last thing seen was silence."""


REACH_S = 30.0
"""How long an instance past its boot timeout may be silent before that is an error."""
_MAX_PHASES = 24
MISTRUST_S = 5.0
"""How long a certificate may go unproved: one that is made again after a change of address needs nginx restarted."""
UNSAID_S = 2.0
"""How long something may take before it is said that it does."""


class Answers(Protocol):
    """The part of an endpoint that is asked."""

    def status(self) -> dict[str, Any]: ...


def silent(phase: str, percent: float | None, elapsed_s: float) -> None:
    """A Progress that says nothing."""


def first(tell: Callable[[str], object], progress: Progress) -> Progress:
    """The same Progress, which tells once, with the phase, that something takes long: all that is seen in a pipe."""
    untold = [tell]

    def told(phase: str, percent: float | None, elapsed_s: float) -> None:
        if untold and elapsed_s >= UNSAID_S:
            untold.pop()(phase)
        progress(phase, percent, elapsed_s)

    return told


class Board:
    """What is going on, for whoever wants to know: a Progress that remembers. Written in one thread, read in any.

    `over` is called once nothing is under way any more.
    """

    def __init__(self, progress: Progress = silent, over: Callable[[], object] = lambda: None) -> None:
        self.phase = ""
        self.percent: float | None = None
        self.seconds: dict[str, float] = {}
        """How long each phase took so far, in the order in which they came."""
        self._at = 0.0
        self._progress = progress
        self._over = over
        self._tell: Callable[[bytes], None] | None = None

    def __call__(self, phase: str, percent: float | None, elapsed_s: float) -> None:
        """A Progress."""
        now = time.monotonic()
        if self.phase and (self.phase in self.seconds or len(self.seconds) < _MAX_PHASES):
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._at
        self.phase, self.percent, self._at = phase, percent, now
        self._progress(phase, percent, elapsed_s)
        if self._tell:
            self._tell(json.dumps([phase, percent, round(elapsed_s, 1)]).encode())

    def clear(self) -> None:
        """Nothing is under way, and nothing has been said yet of what begins next."""
        self.phase, self.percent, self.seconds = "", None, {}
        self._over()

    @contextlib.contextmanager
    def copied(self, tell: Callable[[bytes], None]) -> Iterator[None]:
        """Hand what goes on to `tell` too, as bytes for `copy`."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def copy(self, said: bytes) -> None:
        """Show what another process said through `copied`; anything else counts for nothing."""
        with contextlib.suppress(ValueError, TypeError, RecursionError, OverflowError):
            phase, percent, elapsed_s = json.loads(said)
            self(printable(phase)[:40], share(percent), float(elapsed_s))


class Ticker:
    """Keeps a Progress going through every sleep, its seconds counted from one beginning: no wait says nothing."""

    def __init__(
        self,
        progress: Progress,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._progress = progress
        self._monotonic = monotonic
        self._sleep = sleep
        self._began = monotonic()
        self._phase = ""
        self._percent: float | None = None

    def progress(self, phase: str, percent: float | None, _elapsed_s: float = 0.0) -> None:
        """A Progress that passes on its own seconds."""
        self._phase, self._percent = phase, percent
        self._progress(phase, percent, self._monotonic() - self._began)

    def sleep(self, seconds: float) -> None:
        """Sleep, and say once a second what is being waited for."""
        while seconds > 0:
            if self._phase:
                self.progress(self._phase, self._percent)
            slice_s = min(seconds, 1.0)
            self._sleep(slice_s)
            seconds -= slice_s


def share(value: object) -> float | None:
    """A share in percent as it was said, if it is one."""
    percent = number(value)
    return percent if percent is not None and percent <= 100 else None


def usable(status: dict[str, Any]) -> bool:
    """Whether a status tells of an instance that takes requests: its boot is through, and no fence stands."""
    return status["boot"]["phase"] == "ready" and not status.get("fence")


def failure(status: dict[str, Any]) -> BootFailed | None:
    """The failed boot that a status tells of, or None."""
    boot = status["boot"]
    error = boot.get("error")
    if not isinstance(error, dict):
        return None
    phase = printable(error.get("phase") or boot["phase"])
    log = tuple(printable(line) for line in boot.get("log") or ())[-20:]
    message = printable(error.get("message"))
    end = "" if message.endswith((".", "!", "?")) else "."  # more sentences follow, on the same line at times
    return BootFailed(f"The boot failed in phase {phase}: {message}{end}", phase=phase, log=log)


def boot_budget_s(instance: Instance, now: datetime, reach_s: float = REACH_S) -> float:
    """How long its boot may still take, in seconds; never less than `reach_s`, to notice that it is ready."""
    until = instance.booting_until(now)
    return max((until - now).total_seconds() if until else 0.0, reach_s)


def wait_ready(
    endpoint: Answers,
    *,
    budget_s: float,
    look: Callable[[], None] = lambda: None,
    progress: Progress = silent,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Ask twice a second until the boot is through, and return the status then.

    `look` is called every ten seconds to raise where the instance is gone. Raises BootFailed where the boot failed or
    took more than `budget_s` seconds, KeyRejected at once, Untrusted where that lasts.
    """
    began = looked = monotonic()
    phase, trouble = "starting", ""
    trusted_at = began
    while True:
        elapsed_s = monotonic() - began
        percent = None
        try:
            status = endpoint.status()
        except (Unreachable, OllamaError, Draining) as error:  # an agent that fails once may answer the next time
            trouble, trusted_at = str(error), monotonic()
        except Untrusted:
            if monotonic() - trusted_at >= MISTRUST_S:
                raise
        else:
            trouble, trusted_at = "", monotonic()
            failed = failure(status)
            if failed:
                raise failed
            phase, percent = status["boot"]["phase"], share(status["boot"].get("percent"))
            if phase == "ready":
                return status
        progress(phase, percent, elapsed_s)
        if elapsed_s >= budget_s:
            raise BootFailed(
                f"Not ready after {round(elapsed_s)} s; last seen in phase {phase}. {trouble}".rstrip()
                + " EXOSCALE_BOOT_TIMEOUT sets how long a boot may take.",
                phase=UNREACHABLE if trouble else phase,
            )
        if monotonic() - looked >= LOOK_S:
            looked = monotonic()
            try:
                look()
            except NotFound:
                raise
            except ApiError as error:  # a passing trouble of the API's is none of the boot's
                log.info("%s", error)
        sleep(POLL_S)
