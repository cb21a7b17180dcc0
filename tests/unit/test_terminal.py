"""The live line: on a terminal only, its seconds going on by themselves, and gone before anything else is printed."""

import contextlib
import io
import logging
import os
import pty
import re
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import client.terminal
from client.terminal import Notes, Terminal


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """The line that stands on it: the last one, from its last clearing on."""
        return re.sub(r"\x1b\[[0-9]*m", "", self.getvalue().rpartition("\n")[2].rpartition("\r\x1b[K")[2])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(client.terminal, "TICK_S", 3600.0)  # on a slow machine no seconds go on by themselves


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def terminal(screen: Screen) -> Iterator[Terminal]:
    terminal = Terminal(screen)
    yield terminal
    terminal.clear()


@pytest.mark.parametrize(
    ("no_color", "line"),
    [
        (None, "\x1b[2mexollama: model 42 %, 12 s\x1b[m"),
        ("", "\x1b[2mexollama: model 42 %, 12 s\x1b[m"),
        ("1", "exollama: model 42 %, 12 s"),
    ],
    ids=["unset", "empty", "set"],
)
def test_on_a_terminal_the_progress_is_one_line_that_a_note_clears_with_colour_unless_that_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, screen: Screen, no_color: str | None, line: str
) -> None:
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    terminal = Terminal(screen)
    terminal.progress("model", 41.6, 12.0)
    terminal.note("done")
    assert screen.getvalue() == f"\r\x1b[K{line}\r\x1b[Kexollama: done\n"


def test_in_a_pipe_there_are_the_notes_alone() -> None:
    pipe = io.StringIO()
    terminal = Terminal(pipe)
    terminal.progress("model", None, 12.0)
    terminal.note("done")
    terminal.clear()
    assert pipe.getvalue() == "exollama: done\n"


def test_a_dumb_terminal_is_neither_coloured_nor_redrawn(monkeypatch: pytest.MonkeyPatch, screen: Screen) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal(screen)
    terminal.progress("model", None, 12.0)
    terminal.note("done")
    assert screen.getvalue() == "exollama: done\n"


def test_the_same_line_is_not_drawn_twice_and_one_is_never_wider_than_the_terminal(
    monkeypatch: pytest.MonkeyPatch, screen: Screen, terminal: Terminal
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    for _ in range(5):
        terminal.progress("docker", None, 12.0)
    assert screen.getvalue().count("docker") == 1
    assert screen.shown == "exollama: docker, 12 s (usual"


@pytest.mark.parametrize(
    ("columns", "line"),
    [(30, "exollama: docker, 12 s (usual"), (0, "exollama: docker, 12 s (usually under two minutes)")],
    ids=["narrow", "of no known size"],
)
def test_the_width_is_that_of_the_terminal_it_stands_on_wherever_standard_output_goes(
    monkeypatch: pytest.MonkeyPatch, columns: int, line: str
) -> None:
    monkeypatch.delenv("COLUMNS")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "__stdout__", io.StringIO())
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    with os.fdopen(master, "rb", buffering=0) as screen:
        with os.fdopen(slave, "w") as stream:
            terminal = Terminal(stream)
            terminal.progress("docker", None, 12.0)
            terminal.clear()
        said = b""
        with contextlib.suppress(OSError):  # which is how it ends
            while piece := screen.read(1000):
                said += piece
    assert said.decode() == f"\r\x1b[K{line}\r\x1b[K"


def test_the_seconds_go_on_while_nobody_says_anything_and_stop_with_the_line(
    monkeypatch: pytest.MonkeyPatch, screen: Screen, terminal: Terminal
) -> None:
    monkeypatch.setattr(client.terminal, "TICK_S", 0.01)
    terminal.progress("waiting for the first token", None, 41.0)
    until = time.monotonic() + 10
    while not re.fullmatch(r"exollama: waiting for the first token, 4[2-9] s", screen.shown):
        assert time.monotonic() < until, screen.shown
        time.sleep(0.01)
    terminal.clear()
    before = screen.getvalue()
    assert screen.shown == ""
    time.sleep(0.1)
    assert screen.getvalue() == before


def test_notes_and_progress_from_many_threads_never_mix(screen: Screen, terminal: Terminal) -> None:
    def say(number: int) -> None:
        terminal.progress(f"phase {number}", None, 0.0)
        terminal.note(f"note {number}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(say, range(200)))
    lines = screen.getvalue().removesuffix("\r\x1b[K").removesuffix("\n").split("\n")
    assert sorted(re.sub(r"^.*\r\x1b\[K", "", line) for line in lines) == sorted(
        f"exollama: note {n}" for n in range(200)
    )


def test_what_is_logged_clears_the_live_line_as_a_note_does(screen: Screen, terminal: Terminal) -> None:
    record = logging.makeLogRecord({"name": "exollama.api", "msg": "GET %s", "args": ("/zone",)})
    handler = Notes(terminal)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    terminal.progress("docker", None, 12.0)
    handler.handle(record)
    assert screen.getvalue().endswith("\r\x1b[Kexollama: exollama.api: GET /zone\n")
