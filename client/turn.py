"""Whose turn it is to wake an instance, among the processes of one user on one machine.

It saves the second machine that two pipelines would create for a moment; where no lock can be had, or its holder
stands still, provisioning itself copes. Neighbours: `client.source` takes turns. Imports settings only.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import IO

from client.settings import Settings

log = logging.getLogger("exollama.source")


class Turn:
    """The turn for the instance of one name in one account's zone. It ends with `close`, or with its process."""

    def __init__(self, settings: Settings) -> None:
        self._file: IO[bytes] | None = None
        whose = hashlib.sha256(f"{settings.api_key} {settings.endpoint}".encode()).hexdigest()[:12]
        try:
            # One place for cron, a service and a shell, whatever else their environments say.
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exollama"
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = folder / f"wake-{settings.zone}-{settings.name}-{whose}.lock"
            self._file = path.open("a+b", buffering=0)
        except (OSError, RuntimeError) as error:
            self._without(error)

    def take(self) -> bool:
        """Whether it is ours now; also where there is nothing to take."""
        if self._file is None:
            return True
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except (ImportError, OSError) as error:  # no Unix, or a file system without locks
            self._without(error)
        return True

    def said(self) -> bytes:
        """What whoever has the turn says of itself."""
        if self._file is None:
            return b""
        self._file.seek(0)
        return self._file.read(1000)

    def say(self, words: bytes) -> None:
        """Tell the others what goes on."""
        with contextlib.suppress(OSError):  # a full disk: then they see less
            if self._file:
                self._file.truncate(0)
                self._file.write(words)

    def close(self) -> None:
        """Leave it to the next one. A process that was forked meanwhile has the file, too, so its lock ends first."""
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            if self._file:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        if self._file:
            self._file.close()
            self._file = None

    def _without(self, error: Exception) -> None:
        log.warning("several processes may wake at once: %s", error)
        if self._file:
            self._file.close()
            self._file = None
