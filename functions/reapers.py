"""Which reapers are set up on this machine: cron and systemd, as far as this user may look.

Their lines may hold secrets, so only where they stand is told. Nothing is run but `crontab -l` and `systemctl
list-timers`, each with a time limit and without this process's environment. Neighbours: `functions.doctor` tells.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from client.model import printable

TABLES: Final = (Path("/etc/crontab"), Path("/etc/cron.d"))
_PATIENCE_S: Final = 5.0
_MAX_FILES, _MAX_BYTES, _MAX_LINE = 200, 1 << 18, 2000
_REAPS: Final = re.compile(r"(?!\s*#|.*--dry-run).*(?:\b(?:exollama|garuda-exoscale|client)\b.*\sreap\b|reap_idle)")
_TIMER: Final = re.compile(r"[\w@:.\\-]*(?:exollama[\w-]*reap|reap_idle)[\w-]*\.timer")
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


def here(tables: Iterable[Path] = TABLES) -> list[str]:
    """Where a reaper is set up, in words; empty where none was seen."""
    found = ["this user's crontab"] if reaps(_said("crontab", "-l")) else []
    found += [printable(path) for path in _files(tables) if reaps(_read(path))]
    for whose in ([], ["--user"]):
        listed = _said("systemctl", *whose, "list-timers", "--no-pager", "--no-legend", "--full")
        found += dict.fromkeys(timer_names(listed))
    return found


def reaps(table: str) -> bool:
    """Whether a crontab has a line, and no comment, that reaps."""
    return any(_REAPS.match(line[:_MAX_LINE]) for line in table.splitlines())


def timer_names(listed: str) -> list[str]:
    """The timers among those that systemd lists that reap, by their names."""
    return _TIMER.findall(listed)


def _files(tables: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in tables:
        with suppress(OSError):
            files += sorted(path.iterdir()) if path.is_dir() else [path]
    return files[:_MAX_FILES]


def _read(path: Path) -> str:
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(_MAX_BYTES).decode("utf-8", "replace")
    return ""


def _said(*command: str) -> str:
    """What a command prints, or nothing: where it is missing, fails or hangs, nothing was seen."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"LC_ALL": "C"}
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [program, *command[1:]],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
        )
        return done.stdout[:_MAX_BYTES].decode("utf-8", "replace")
    return ""
