"""Runs an unchanged program with its clocks moved by the offset in a file.

    python -m tests.simulator.timeshift OFFSETFILE -m functions.reap_idle --json
    python -m tests.simulator.timeshift OFFSETFILE path/to/agent.py

Moved are time.time, time.time_ns, time.clock_gettime and its _ns twin (CLOCK_REALTIME, CLOCK_BOOTTIME), and
datetime.now and utcnow. time.monotonic, sleeps and socket timeouts are not: they measure real waiting. The file is read
at each call, so that time moves under a running program. On a simulated instance, variables of its environment
say where its os-release lies, and how long it may sleep between attempts or what part of each sleep it takes. Standard
library only.
"""

from __future__ import annotations

import datetime as datetime_module
import os
import runpy
import sys
import time
from typing import Any, cast

_MOVED = {time.CLOCK_REALTIME, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_REALTIME)}


def install(path: str) -> None:
    """Patch the clocks of this process."""
    real_time, real_gettime = time.time, time.clock_gettime

    def offset() -> float:
        handle = os.open(path, os.O_RDONLY)
        try:
            return float(os.read(handle, 64))
        finally:
            os.close(handle)

    def moved_time() -> float:
        return real_time() + offset()

    def moved_gettime(clock: int) -> float:
        return real_gettime(clock) + (offset() if clock in _MOVED else 0.0)

    class MovedDatetime(datetime_module.datetime):
        @classmethod
        def now(cls, tz: datetime_module.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(moved_time(), tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.fromtimestamp(moved_time(), datetime_module.UTC).replace(tzinfo=None)

    clocks: Any = time
    clocks.time = moved_time
    clocks.time_ns = lambda: int(moved_time() * 1e9)
    clocks.clock_gettime = moved_gettime
    clocks.clock_gettime_ns = lambda clock: int(moved_gettime(clock) * 1e9)
    dates: Any = datetime_module
    dates.datetime = MovedDatetime


def settle() -> None:
    """Of an instance's own programs: look for os-release below its root, and be impatient between attempts."""
    if root := os.environ.get("EXOLLAMA_SIMULATED_ROOT"):
        import platform

        release: Any = platform
        release._os_release_candidates = (f"{root}/etc/os-release",)
    real_sleep, clocks = time.sleep, cast("Any", time)
    if patience := os.environ.get("EXOLLAMA_SIMULATED_PATIENCE_S"):
        most_s = float(patience)
        clocks.sleep = lambda seconds: real_sleep(min(seconds, most_s))
    elif haste := os.environ.get("EXOLLAMA_SIMULATED_HASTE"):
        part = float(haste)
        clocks.sleep = lambda seconds: real_sleep(seconds * part)


def main(argv: list[str]) -> None:
    if len(argv) < 2 or (argv[1] == "-m" and len(argv) < 3):
        sys.exit("usage: timeshift OFFSETFILE (-m MODULE | SCRIPT) [ARGUMENT ...]")
    install(argv[0])
    settle()
    if argv[1] == "-m":
        sys.argv = argv[2:]
        runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = argv[1:]
        runpy.run_path(argv[1], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
