"""Of several processes of one user on one machine one wakes an instance, and the others see what it is doing."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client.boot import Board
from client.model import Instance
from client.session import Session
from client.settings import Secret
from client.source import ByCredentials, Place
from client.turn import Turn
from tests.fakes import settings

ROOT = Path(__file__).parents[2]
WHOSE = hashlib.sha256(f"{settings().api_key} {settings().endpoint}".encode()).hexdigest()[:12]
FILE = f"wake-{settings().zone}-a-name-{WHOSE}.lock"
HOLDER = """
import sys, time
from client.turn import Turn
from tests.fakes import settings

turn = Turn(settings(name=sys.argv[1]))
while not turn.take():
    time.sleep(0.01)
turn.say(b'["model", 41.0, 7.5]')
print("held", flush=True)
sys.stdin.read()
turn.close()
print("let go", flush=True)
"""


class Found:
    """A session that has an instance as soon as it is asked for one; `there` from the beginning, or only once woken."""

    def __init__(self, there: bool = False, **changes: Any) -> None:
        self.settings = settings(**{"name": "a-name"} | changes)
        self.there = there
        self.looks = 0

    def find(self) -> Instance | None:
        self.looks += 1
        return Instance(id="an-id", zone="z", state="running") if self.there else None

    def endpoint(self, _: Instance) -> Any:
        status = {"boot": {"phase": "ready"}, "fence": None}
        return SimpleNamespace(
            address="127.0.0.9", port=11435, fingerprint="f", close=lambda: None, status=lambda: status
        )

    def ready(self) -> tuple[Instance, Any, dict[str, Any]]:
        instance = Instance(id="woken", zone="z", state="running")
        return instance, self.endpoint(instance), {}

    def key(self, _: Instance) -> Secret:
        return Secret("k")


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("client.source._POLL_S", 0.01)
    return tmp_path / "exollama"


class Holder:
    """Another process that holds the lock of a name."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, "-c", HOLDER, name]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def says(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def lets_go(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()


@pytest.fixture
def holder() -> Iterator[Holder]:
    one = Holder("a-name")
    with one.process:
        assert one.says() == "held"
        yield one
        one.process.kill()


class Ended(Exception):
    """The wait is not waited for."""


def waits(until: int = 5, **changes: Any) -> list[tuple[str, float | None, float]]:
    """Wait for the lock for so many looks; what was shown meanwhile. Empty where it was had at once."""
    shown: list[tuple[str, float | None, float]] = []

    def show(phase: str, percent: float | None, elapsed_s: float) -> None:
        shown.append((phase, percent, elapsed_s))
        if len(shown) == until:
            raise Ended

    with contextlib.suppress(Ended):
        wake(Board(show), **changes)
    return shown


def wake(board: Board, session: Found | None = None, **changes: Any) -> Place:
    return ByCredentials(cast("Session", session or Found(**changes)), board, wakes=True).wake()


def test_while_one_process_wakes_another_waits_and_shows_what_the_first_is_doing(holder: Holder) -> None:
    assert waits() == [("model", 41.0, 7.5)] * 5


@pytest.mark.parametrize(
    "changes",
    [{"name": "another"}, {"zone": "de-fra-1"}, {"api_key": "EXOanother"}, {"endpoint": "http://127.0.0.1:1/{zone}"}],
    ids=["name", "zone", "account", "API"],
)
def test_nobody_waits_for_another_name_zone_or_account(holder: Holder, changes: dict[str, Any]) -> None:
    assert waits(**changes) == []


@pytest.mark.parametrize("killed", [False, True], ids=["let go", "killed"])
def test_whoever_waits_is_next_however_the_holder_ends(holder: Holder, killed: bool) -> None:
    began = time.monotonic()

    def show(*_: object) -> None:
        if time.monotonic() - began < 0.1:
            return
        if killed:
            holder.process.kill()
        else:
            holder.lets_go()

    assert wake(Board(show)).id == "woken"
    assert holder.process.wait(10) == (-9 if killed else 0)


def test_a_second_process_waits_for_the_first_and_then_has_it(holder: Holder) -> None:
    other = Holder("a-name")
    with other.process:
        assert other.process.stdout
        os.set_blocking(other.process.stdout.fileno(), False)
        time.sleep(0.3)
        assert other.process.stdout.readline() == "", "it waits"
        os.set_blocking(other.process.stdout.fileno(), True)
        holder.lets_go()
        assert (holder.says(), other.says()) == ("let go", "held")
        other.lets_go()
        assert other.says() == "let go"


def test_what_the_file_says_is_nothing_but_words_to_show(holder: Holder, folder: Path) -> None:
    for said in (b"", b"nonsense", b"[]", b'["a"]', b'["\x1b[2J", null, 1]', b'{"a": 1}', b"[" * 999, b'["p", "x", 1]'):
        (folder / FILE).write_bytes(said)
        board = Board()
        board.copy((folder / FILE).read_bytes())
        assert board.phase.isprintable()


def test_an_instance_that_is_ready_is_used_although_another_process_stands_still(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.source._LOOK_S", 0.05)
    session = Found(there=True)
    assert wake(Board(), session).id == "an-id"
    assert session.looks == 1


def test_whoever_stands_still_for_longer_than_a_boot_takes_is_waited_for_no_longer(
    holder: Holder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("client.source._MARGIN_S", -0.9)
    assert wake(Board(), boot_s=1).id == "woken"
    assert "another process has been waking an instance" in caplog.text


def test_a_child_that_was_forked_meanwhile_keeps_nobody_waiting() -> None:
    turn = Turn(settings(name="a-name"))
    assert turn.take()
    pid = os.fork()
    if not pid:
        time.sleep(20)
        os._exit(0)
    try:
        turn.close()
        other = Turn(settings(name="a-name"))
        assert other.take()
        other.close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_the_lock_is_in_a_folder_that_nobody_else_can_enter(folder: Path) -> None:
    with contextlib.closing(Turn(settings(name="a-name"))) as turn:
        assert turn.take()
        assert (folder.stat().st_mode & 0o777) == 0o700
        assert [file.name for file in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("how", ["a file", "not to be written", "no home"])
def test_where_no_lock_can_be_had_it_goes_on_without_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    if how == "a file":
        folder.write_text("")
    elif how == "no home":

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", homeless)
    else:
        (folder / FILE).mkdir(parents=True)
    for _ in range(2):
        assert wake(Board()).id == "woken"
    assert caplog.text.count("several processes may wake at once") == 2


def test_on_a_file_system_without_locks_it_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    assert wake(Board()).id == "woken"
    assert "No locks available" in caplog.text


def test_without_a_folder_for_caches_it_is_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "at-home")
    with contextlib.closing(Turn(settings(name="a-name"))):
        assert (tmp_path / "at-home/.cache/exollama" / FILE).exists()
