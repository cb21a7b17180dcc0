"""Which reapers are set up on this machine: cron and systemd, as far as this user may look; and a line to add.

Their lines may hold secrets, so only where they stand is told. Nothing is run but `crontab -l` and `systemctl
list-timers`, each with a time limit and without this process's environment. Neighbours: `functions.doctor` tells.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from client.model import printable

TABLES: Final = (Path("/etc/crontab"), Path("/etc/cron.d"))
_PATIENCE_S: Final = 5.0
_MAX_FILES, _MAX_BYTES, _MAX_LINE = 200, 1 << 18, 2000
_REAPS: Final = re.compile(r"(?!\s*#|.*--dry-run).*(?:\b(?:exollama|garuda-exoscale|client)\b.*\sreap\b|reap_idle)")
_BEGINNINGS: Final = ("&&", "||", ";", "(")
"""Behind these a command begins."""
_TIMER: Final = re.compile(r"[\w@:.\\-]*(?:exollama[\w-]*reap|reap_idle)[\w-]*\.timer")
_PASSED_ON: Final = ("PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


def here(tables: Iterable[Path] = TABLES) -> tuple[list[str], list[str]]:
    """Where a reaper is set up, in words, if any was seen; and what its line in this user's crontab lacks."""
    own = _said("crontab", "-l")
    found = ["this user's crontab"] if reaps(own) else []
    found += [printable(path) for path in _files(tables) if reaps(_read(path))]
    for whose in ([], ["--user"]):
        listed = _said("systemctl", *whose, "list-timers", "--no-pager", "--no-legend", "--full")
        found += dict.fromkeys(timer_names(listed))
    return found, lacks(own)


def reaps(table: str) -> bool:
    """Whether a crontab has a line, and no comment, that reaps."""
    return bool(_lines(table))


def _lines(table: str) -> list[str]:
    return [line for line in table.splitlines() if _REAPS.match(line[:_MAX_LINE])]


def lacks(table: str) -> list[str]:
    """What the lines of a crontab that reap name by a whole path and is not there, in words, without the path."""
    missing: dict[str, None] = {}
    for line in _lines(table):
        lexer = shlex.shlex(line[:_MAX_LINE], posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, ""
        words: list[str] = []
        with suppress(ValueError):  # a quote without its other one: nothing is known of it
            words = list(lexer)
        begins = 1 if line.lstrip()[:1] == "@" else 5  # behind the time
        for at, (before, word, after) in enumerate(zip(words, words[1:], words[2:], strict=False), 1):
            # In another place it may be another machine's: an argument of ssh, say, or of docker.
            is_command = at == begins or before in _BEGINNINGS or "=" in before
            if before in (".", "source") and _is_missing(word):
                missing["the file with the settings"] = None
            if is_command and after in ("reap", "-m") and _is_missing(word):
                missing["the program"] = None
    return list(missing)


def _is_missing(word: str) -> bool:
    path = os.path.expanduser(re.sub(r"^\$(HOME|\{HOME\})(?=/)", "~", word))
    return os.path.isabs(path) and "$" not in path and not os.path.exists(path)


def cron_line() -> str:
    """A line for a crontab that reaps with the program that runs now."""
    program, folder = os.path.abspath(sys.argv[0]), Path(__file__).resolve().parents[1]
    call = shlex.quote(program)
    if Path(program).name not in ("exollama", "garuda-exoscale") or not os.path.isfile(program):
        call = f"cd {shlex.quote(str(folder))} && {shlex.quote(sys.executable)} -m client"
    call = call.replace("%", r"\%")  # which is a new line to cron
    return f'*/10 * * * *  set -a; . "$HOME/.exollama.env" && {call} reap --quiet'


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
