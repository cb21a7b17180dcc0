"""What cloud-init would do with a user-data: read it, write its files. The files are relocated below a root.

Relocation is textual, in contents and target paths: five path prefixes, the address of Ollama, and the address that
nginx listens on; and nginx's user where this machine has no such one. Nothing else is changed. Imports nothing of the
project.
"""

from __future__ import annotations

import base64
import gzip
import os
import pwd
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, and thirty times as quick, in C
WORKER = "www-data"
PREFIXES = ("/etc/", "/opt/exollama", "/var/lib/exollama", "/var/log/exollama", "/run/exollama")
_PATHS = re.compile(rf"(?<![\w.-])(?={'|'.join(PREFIXES)})")
_LISTEN_6 = re.compile(r"^\s*listen \[::\]:11435\b.*;\n", re.MULTILINE)
# Of cloud-init's modules, those that mean something here, and those that the simulator may ignore.
_KNOWN = {"write_files", "runcmd", "bootcmd"}
_IGNORED = {
    "package_update", "package_upgrade", "package_reboot_if_required", "ssh_pwauth", "ssh_deletekeys", "disable_root",
    "manage_etc_hosts", "preserve_hostname", "hostname", "timezone", "locale", "swap", "final_message", "apt", "ntp",
}  # fmt: skip


class Unreadable(Exception):
    """A user-data that cloud-init would not act upon; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file to write, not yet relocated."""

    path: str
    content: bytes
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudConfig:
    """What the simulator acts upon."""

    files: tuple[File, ...]
    bootcmd: tuple[str | list[str], ...]
    runcmd: tuple[str | list[str], ...]


def read(user_data: str) -> CloudConfig:
    """Unpack and read a user-data as create-instance took it. Raises Unreadable."""
    raw = base64.b64decode(user_data, validate=True)
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if not raw.startswith(b"#cloud-config\n"):
        raise Unreadable("the user-data does not begin with #cloud-config")
    try:
        config: Any = yaml.load(raw, LOADER)
    except yaml.YAMLError as error:
        raise Unreadable(f"the user-data is no YAML: {error}") from None
    if not isinstance(config, dict):
        raise Unreadable("the user-data holds no mapping")
    if unknown := config.keys() - _KNOWN - _IGNORED:
        raise Unreadable(f"keys that the simulator does not know: {sorted(unknown)}")
    return CloudConfig(
        files=tuple(_file(entry) for entry in config.get("write_files") or ()),
        bootcmd=tuple(config.get("bootcmd") or ()),
        runcmd=tuple(config.get("runcmd") or ()),
    )


def _file(entry: dict[str, Any]) -> File:
    if unknown := entry.keys() - {"path", "content", "permissions", "owner", "encoding", "defer"}:
        raise Unreadable(f"write_files: unknown keys {sorted(unknown)} of {entry.get('path')}")
    content = str(entry.get("content", "")).encode()
    encoding = str(entry.get("encoding", "text/plain"))
    if encoding in ("b64", "base64", "gz+b64", "gzip+base64"):
        content = base64.b64decode(content)
    elif encoding != "text/plain":
        raise Unreadable(f"write_files: unknown encoding {encoding!r}")
    if encoding.startswith("gz"):
        content = gzip.decompress(content)
    permissions = entry.get("permissions", "0644")
    if not isinstance(permissions, str):  # YAML reads 0644 without quotes as the number 420
        raise Unreadable(f"write_files: permissions of {entry.get('path')} are no string")
    return File(path=str(entry["path"]), content=content, mode=int(permissions, 8))


def relocate(text: str, root: Path, address: str) -> str:
    """The text with its paths below `root` and its addresses at the instance's own."""
    text = _PATHS.sub(lambda _: str(root), text)
    text = text.replace("127.0.0.1:11434", f"{address}:11434")
    if not _usable(WORKER):
        text = text.replace(f"user {WORKER};", "user root;")
    return _LISTEN_6.sub("", text).replace("listen 11435", f"listen {address}:11435")


@cache
def _usable(user: str) -> bool:
    """Whether nginx could hand its work to that user: not every distribution has it, nor every user namespace."""
    if os.geteuid():
        return True  # then nginx ignores the name
    try:
        with tempfile.NamedTemporaryFile() as file:
            os.chown(file.name, pwd.getpwnam(user).pw_uid, -1)
    except (LookupError, OSError):
        return False
    return True


def place(path: str, root: Path) -> Path:
    """Where a file of the instance lies."""
    moved = _PATHS.sub(lambda _: str(root), path)
    return Path(moved) if moved != path else root / path.lstrip("/")


def write(config: CloudConfig, root: Path, address: str) -> None:
    """Write all files, relocated."""
    for file in config.files:
        target = place(file.path, root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(relocate(file.content.decode(), root, address).encode())
        target.chmod(file.mode)
