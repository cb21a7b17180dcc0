"""Of several processes of one user on one machine one wakes an instance, and the others see what it is doing."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client.boot import Board
from client.source import _alone
from tests.fakes import settings

ROOT = Path(__file__).parents[2]
WHOSE = hashlib.sha256(f"{settings().api_key} {settings().endpoint}".encode()).hexdigest()[:12]
FILE = f"{settings().zone}-a-name-{WHOSE}.lock"
HOLDER = """
import sys
from client.boot import Board
from client.source import _alone
from tests.fakes import settings

board = Board()
with _alone(settings(name=sys.argv[1]), board):
    board("model", 41.0, 7.5)
    print("held", flush=True)
    sys.stdin.read()
print("let go", flush=True)
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("client.source._POLL_S", 0.01)
    return tmp_path / f"exollama-{os.getuid()}"


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

    try:
        with _alone(settings(**{"name": "a-name"} | changes), Board(show)):
            return shown
    except Ended:
        return shown


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

    with _alone(settings(name="a-name"), Board(show)):
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


def test_the_lock_is_in_a_folder_that_nobody_else_can_enter(folder: Path) -> None:
    with _alone(settings(name="a-name"), Board()):
        assert (folder.stat().st_mode & 0o777) == 0o700
        assert [file.name for file in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("how", ["a file", "somebody else's", "a link", "not to be written"])
def test_where_no_lock_can_be_had_it_goes_on_without_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    if how == "a file":
        folder.write_text("")
    elif how == "somebody else's":
        folder.mkdir()
        monkeypatch.setattr(Path, "lstat", lambda _: SimpleNamespace(st_uid=os.getuid() + 1))
    elif how == "a link":
        (tmp_path / "mine").mkdir()
        folder.symlink_to(tmp_path / "mine")
        real = Path.lstat
        # Whoever planted a link owns the link, not what it leads to.
        theirs = SimpleNamespace(st_uid=os.getuid() + 1)
        monkeypatch.setattr(Path, "lstat", lambda self: theirs if os.path.islink(self) else real(self))
    else:
        (folder / FILE).mkdir(parents=True)
    with ExitStack() as both:
        both.enter_context(_alone(settings(name="a-name"), Board()))
        both.enter_context(_alone(settings(name="a-name"), Board()))
    assert caplog.text.count("several processes may wake at once") == 2


def test_on_a_file_system_without_locks_it_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuses)
    with _alone(settings(name="a-name"), Board()):
        pass
    assert "No locks available" in caplog.text


def test_without_a_runtime_directory_the_folder_for_temporary_files_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    with _alone(settings(name="a-name"), Board()):
        assert (tmp_path / "elsewhere" / f"exollama-{os.getuid()}" / FILE).exists()
