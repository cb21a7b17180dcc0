"""The simulator's time: the machine's clock plus an offset kept in a file.

Processes of an instance run under timeshift.py, which reads the same file, so that one `advance` moves the zones,
the agents and whatever else was started with the launcher. Durations of real waiting (latency of operations, pauses
between tokens) are not touched.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path


class Clock:
    """Wall time in seconds, movable forward."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset_s = 0.0
        self._skew_s: dict[str, float] = {}
        self._write()

    def now(self, zone: str | None = None) -> float:
        """Seconds since the epoch; with a zone, as that zone's own clock has it."""
        return time.time() + self._offset_s + self._skew_s.get(zone or "", 0.0)

    def advance(self, seconds: float) -> None:
        """Move everything forward: zones, agents, and programs under timeshift.py."""
        if seconds < 0:
            raise ValueError("time moves forward only")
        self._offset_s += seconds
        self._write()

    def skew(self, zone: str, seconds: float) -> None:
        """Set one zone's clock wrong by so much, against everything else."""
        self._skew_s[zone] = seconds

    def date(self, zone: str) -> str:
        """The zone's Date header."""
        return formatdate(self.now(zone), usegmt=True)

    def rfc3339(self, zone: str) -> str:
        """The zone's time as the API writes it."""
        return rfc3339(self.now(zone))

    def _write(self) -> None:
        draft = self.path.with_name(self.path.name + ".new")
        draft.write_text(f"{self._offset_s!r}\n", encoding="ascii")
        os.replace(draft, self.path)


def rfc3339(epoch_s: float) -> str:
    """`2026-11-24T10:00:00Z`."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
