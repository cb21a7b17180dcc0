"""The part of systemd that the instance's units use: reading them, with their drop-ins. Pure but for reading files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

# Units that a package brings; a drop-in of the user-data may change them.
PACKAGED = {
    "nginx.service": "[Service]\nType=forking\nExecStart=/usr/sbin/nginx -g 'daemon on; master_process on;'\n"
    "[Install]\nWantedBy=multi-user.target\n",
    "docker.service": "[Service]\nType=notify\nExecStart=/usr/bin/dockerd -H fd://\n[Install]\nWantedBy=multi-user.target\n",
}


@dataclass(slots=True)
class Unit:
    """What matters of one service unit."""

    name: str
    exec_start: list[list[str]] = field(default_factory=list)
    exec_start_pre: list[list[str]] = field(default_factory=list)
    conditions: list[tuple[Path, bool]] = field(default_factory=list)  # and whether it has to be there
    environment: dict[str, str] = field(default_factory=dict)
    directories: list[Path] = field(default_factory=list)
    type: str = "simple"
    restart: str = "no"
    restart_s: float = 0.1
    installable: bool = False


def load(name: str, root: Path, packaged: bool) -> Unit | None:
    """The unit of that name below `root`, drop-ins included; None where there is none."""
    folder = root / "etc/systemd/system"
    texts = [file.read_text() for file in [folder / name] if file.exists()]
    if not texts and packaged and name in PACKAGED:
        texts = [PACKAGED[name]]
    if not texts:
        return None
    texts += [file.read_text() for file in sorted((folder / f"{name}.d").glob("*.conf"))]
    unit = Unit(name)
    for text in texts:
        _read(unit, text, root)
    return unit


def _read(unit: Unit, text: str, root: Path) -> None:
    section = ""
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        if line.startswith("["):
            section = line
        elif "=" in line and not line.startswith(("#", ";")):
            key, _, value = (part.strip() for part in line.partition("="))
            _set(unit, section, key, value, root)


def _set(unit: Unit, section: str, key: str, value: str, root: Path) -> None:
    lists = {"ExecStart": unit.exec_start, "ExecStartPre": unit.exec_start_pre}
    homes = {"RuntimeDirectory": "run", "LogsDirectory": "var/log", "StateDirectory": "var/lib"}
    if key in lists:
        if not value:
            lists[key].clear()  # an empty assignment resets the list
        else:
            lists[key].append(shlex.split(value.lstrip("-")))
    elif key == "ConditionPathExists":
        unit.conditions.append((Path(value.removeprefix("!")), not value.startswith("!")))
    elif key == "Environment":
        for word in shlex.split(value):
            name, _, setting = word.partition("=")
            unit.environment[name] = setting
    elif key in homes:
        unit.directories += [root / homes[key] / word for word in value.split()]
    elif key == "Type":
        unit.type = value
    elif key == "Restart":
        unit.restart = value
    elif key == "RestartSec":
        unit.restart_s = float(value.rstrip("s"))
    elif section == "[Install]" and key == "WantedBy":
        unit.installable = True
