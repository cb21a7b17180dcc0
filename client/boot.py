"""Waiting until an instance is ready, saying what it is doing meanwhile.

Neighbours: `functions.protocol` waits so after a create, `client.session` where somebody else's boot is under way.
Imports errors and endpoint only.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

from client.errors import BootFailed, Unreachable

Progress = Callable[[str, float | None, float], None]
"""Called as progress(phase, percent or None, seconds so far) while something long is under way."""

POLL_S = 0.5
"""Ready is to be noticed within a second of its being so."""
LOOK_S = 10.0
UNREACHABLE = "unreachable"
"""The phase of a BootFailed where the last thing seen was silence."""


class Answers(Protocol):
    """The part of an endpoint that is asked."""

    def status(self) -> dict[str, Any]: ...


def silent(phase: str, percent: float | None, elapsed_s: float) -> None:
    """A Progress that says nothing."""


def failure(status: dict[str, Any]) -> BootFailed | None:
    """The failed boot that a status tells of, or None."""
    boot = status["boot"]
    error = boot.get("error")
    if not isinstance(error, dict):
        return None
    phase = str(error.get("phase") or boot["phase"])
    log = tuple(str(line) for line in boot.get("log") or ())[-20:]
    return BootFailed(f"The boot failed in phase {phase}: {error.get('message')}", phase=phase, log=log)


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
    took more than `budget_s` seconds, Untrusted or KeyRejected at once.
    """
    began = looked = monotonic()
    phase, trouble = "starting", ""
    while True:
        elapsed_s = monotonic() - began
        percent = None
        try:
            status = endpoint.status()
        except Unreachable as error:
            trouble = str(error)
        else:
            trouble = ""
            failed = failure(status)
            if failed:
                raise failed
            phase, percent = status["boot"]["phase"], status["boot"].get("percent")
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
            look()
            looked = monotonic()
        sleep(POLL_S)
