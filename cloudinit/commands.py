"""The commands that a boot runs, and what it installs with apt. What they print goes to boot.log.

Imported by bootstrap.py and gpu.py. Standard library only, Python 3.10.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

APT = Path("/etc/apt")
RUN = Path("/run/exollama")
LOG = Path("/var/log/exollama")
FRESH = RUN / "apt-lists-are-fresh"

RETRY_S = float(os.environ.get("EXOLLAMA_RETRY_S", "5"))
ATTEMPTS = 4  # of whatever needs the network
HOPELESS = re.compile(
    "[Nn]o space left|enough free space|not found|manifest unknown|denied|does not exist|Unable to (locate|correct)"
    "|no installation candidate|find any package by"  # apt's last word on a name with dots in it, as a kernel's has
)


class Failed(Exception):
    """A step that failed, in words for whoever waits for this machine."""


def note(text: str) -> None:
    """Write to boot.log; a full disk must not keep the boot from saying that the disk is full."""
    with contextlib.suppress(OSError), (LOG / "boot.log").open("a") as log:
        log.write(text + "\n")


def run_once(argv: list[str], timeout_s: float) -> tuple[str, str]:
    """What a command printed, and what went wrong ("": nothing)."""
    note(f"$ {shlex.join(argv)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}
    # Into memory, not the log, for the sake of full disks; no pipe, which a daemon left behind would hold open.
    with open(os.memfd_create("output"), "w+b") as output:
        try:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )
        except OSError as error:
            return "", f"cannot be run: {error.strerror}"
        try:
            status = child.wait(timeout_s)
            problem = f"ended with {status}" if status else ""
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            problem = f"took longer than {timeout_s:.0f} s"
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    note(text)
    last = text.rpartition("\n")[2][:300]
    return text, f"{problem}: {last}" if problem and last else problem


def run(command: str, *more: str, timeout_s: float = 60, attempts: int = 1) -> str:
    """Run a command found on PATH (the words of `command`, then `more`) and return what it printed.

    Raises Failed with its last line once the last attempt failed.
    """
    argv = [*command.split(), *more]
    for attempt in range(1, attempts + 1):
        text, problem = run_once(argv, timeout_s)
        if not problem:
            return text
        if attempt == attempts or HOPELESS.search(problem):
            raise Failed(f"{shlex.join(argv[:6])} {problem}")
        time.sleep(RETRY_S * attempt)
    raise AssertionError("at least one attempt")


def ask(command: str, *more: str) -> str | None:
    """What a command printed, None where it failed."""
    try:
        return run(command, *more)
    except Failed:
        return None


def installed(package: str) -> bool:
    """Whether dpkg has it, whole."""
    return ask("dpkg-query -W -f ${db:Status-Status}", package) == "installed"


def update(options: str = "", attempts: int = ATTEMPTS) -> None:
    """New lists for apt, and an end to what a boot that was cut off left half configured."""
    if not FRESH.exists():
        with contextlib.suppress(Failed):
            run("dpkg --configure -a", timeout_s=900)
    # Else a list that could not be fetched is a warning, and its packages cannot be located.
    run(f"apt-get update -q -o APT::Update::Error-Mode=any {options}", timeout_s=300, attempts=attempts)
    FRESH.touch()


def install(*packages: str) -> bool:
    """Install what is missing, after one update of apt's lists per boot; whether anything was missing."""
    missing = [package for package in packages if not installed(package)]
    if missing:
        stale = None
        if not FRESH.exists():
            try:
                update()
            except Failed as error:
                stale = error  # which matters only where that source is needed
        try:
            run("apt-get install -y -q --no-install-recommends", *missing, timeout_s=900, attempts=ATTEMPTS)
        except Failed as error:
            raise stale or error from None
        FRESH.touch()
    return bool(missing)


def install_from(maker: str, key_url: str, fingerprint: str, line: str, *packages: str, attempts: int = 1) -> None:
    """Install from a maker's own repository, whose signing key must be the known one and no other.

    That key is asked for `attempts` times. apt's lists are updated once for this repository and all others.
    """
    install("ca-certificates", "curl", "gpg")
    stem = f"exollama-{maker.lower()}"
    armored, keyring = RUN / f"{stem}.asc", APT / f"keyrings/{stem}.gpg"
    source = APT / f"sources.list.d/{stem}.list"
    source.unlink(missing_ok=True)
    for folder in (keyring.parent, source.parent, RUN / "gnupg"):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    # curl's own second try is for what times out.
    download = "curl -fsSL --proto =https --connect-timeout 4 -m 15 --retry 1 -o"
    run(download, str(armored), key_url, attempts=attempts)
    gpg = f"gpg --batch --yes --homedir {RUN / 'gnupg'}"
    lines = run(gpg, "--show-keys", "--with-colons", str(armored)).splitlines()
    # The record of a key is followed by its fingerprint's (its subkeys, "sub", have theirs as well).
    found = [lines[i + 1] for i, line in enumerate(lines) if line.startswith("pub:")]
    if found != [f"fpr:::::::::{fingerprint}:"]:
        raise Failed(f"{maker}'s signing key is not the known one but {found}")
    run(gpg, "--dearmor", "-o", str(keyring), str(armored))
    architecture = run("dpkg --print-architecture")
    only = f"-o Dir::Etc::sourcelist={source} -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0"
    source.write_text(f"deb [arch={architecture} signed-by={keyring}] {line}\n")
    try:
        update(only if FRESH.exists() else "", attempts=2)
        install(*packages)
    except Failed:
        source.unlink()  # a source that does not answer would fail every later update as well
        raise
