"""Watching: looks in their rhythm, slower where the API asks for it, and none that ends the watch."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from client.transport import Request, Response
from functions import status, watch
from functions.watch import MOST_S, Pace
from tests.fakes import NOW, label_map, settings
from tests.zones import ID, Zones, instance, refusal

REQUEST = Request("GET", "https://api-ch-gva-2.exoscale.com/v2/zone", {}, b"", 20.0)


def limited(**headers: str) -> Response:
    return Response(429, headers, b"")


@pytest.mark.parametrize(
    ("every_s", "looks", "pauses"),
    [
        (5, [[], []], [5, 5]),
        (5, [[limited()], [limited()], [], [limited()]], [10, 20, 5, 10]),
        (5, [[limited(**{"retry-after": "25"}), limited(**{"retry-after": "7"})], []], [25, 5]),
        (5, [[limited(**{"retry-after": "86400"})]], [30]),
        (5, [[limited()]] * 9, [10, 20, 40, 80, 160, 320, MOST_S, MOST_S, MOST_S]),
        (3600, [[limited()], []], [3600, 3600]),
        (5, [[Response(503, {"retry-after": "25"}, b"")]], [5]),
    ],
    ids=["never", "sometimes", "as long as asked", "but no day", "for ever", "never sooner", "another failure"],
)
def test_the_pause_grows_while_the_api_limits_and_is_as_asked_for_else(
    every_s: float, looks: list[list[Response]], pauses: list[float]
) -> None:
    answers: list[Response] = []
    pace = Pace(every_s, lambda _: answers.pop(0))
    for look, pause_s in zip(looks, pauses, strict=True):
        answers[:] = look
        for _ in look:
            pace.send(REQUEST)
        assert pace.settle() == pause_s


class Interrupted(BaseException):
    """As Ctrl-C in the middle of a pause."""


class Pipe(io.StringIO):
    """What is written, and how often it is sent on."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


class Screen(Pipe):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def watched(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, list[float]]]:
    """Watch the zones for as many looks as there are things to do after them; what was written, and the pauses."""
    monkeypatch.setattr(status.run, "__kwdefaults__", {**(status.run.__kwdefaults__ or {}), **zones.injected})

    def run(
        out: io.StringIO, *then: Callable[[], object], where: tuple[str, ...] | None = ("ch-gva-2",), **how: Any
    ) -> tuple[str, list[float]]:
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) > len(then):
                raise Interrupted
            then[len(pauses) - 1]()

        with pytest.raises(Interrupted):
            watch.watch(settings(zones=where), 5, out, sleep=sleep, **how)
        return out.getvalue(), pauses

    return run


def breaks(zones: Zones, code: int) -> Callable[[], object]:
    return lambda: zones.faults.__setitem__("GET /instance", refusal(code, "not now"))


def heals(zones: Zones) -> Callable[[], object]:
    return zones.faults.clear


def test_a_pipe_gets_a_block_with_its_time_for_each_look_and_a_failed_one_is_shown(
    zones: Zones, watched: Callable[..., tuple[str, list[float]]]
) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(deadline=NOW + timedelta(hours=3))))
    pipe = Pipe()
    written, pauses = watched(pipe, breaks(zones, 400), heals(zones))
    assert pipe.flushed == 3
    assert "\x1b" not in written
    first, second, third, rest = written.split("\n\n")
    head, columns, row = first.splitlines()[:3]
    assert head == "2026-11-24 12:00:00 UTC, every 5 s"
    assert (columns.split()[0], row.split()[0]) == ("name", "exollama")
    assert first.endswith(f"ch-gva-2 {ID} reaches its deadline at 2026-11-24T15:00:00+00:00.")
    assert second.splitlines()[1:] == [
        "Nothing is known: no zone could be looked at.",
        "ch-gva-2 was not looked at: GET /instance: not now (400).",
    ]
    assert (third, rest) == (first, "")
    assert pauses == [5, 5, 5]


def test_json_is_one_object_per_look_and_line_the_failed_ones_with_their_error(
    zones: Zones, watched: Callable[..., tuple[str, list[float]]]
) -> None:
    zones.instances["ch-gva-2"].append(instance())
    written, _ = watched(Screen(), breaks(zones, 400), as_json=True)
    one, other = (json.loads(line) for line in written.splitlines())
    assert [item["name"] for item in one["instances"]] == ["exollama"]
    assert other["failed"] == ["ch-gva-2 was not looked at: GET /instance: not now (400)."]
    zones.faults["GET /zone"] = refusal(400, "not now")
    (line,) = watched(io.StringIO(), where=None, as_json=True)[0].splitlines()
    assert json.loads(line)["error"] == "GET /zone: not now (400)."
    assert set(json.loads(line)) == {"time", "error"}


def test_a_look_that_was_limited_says_when_the_next_one_is(
    zones: Zones, watched: Callable[..., tuple[str, list[float]]]
) -> None:
    written, pauses = watched(io.StringIO(), breaks(zones, 429), heals(zones))
    heads = [block.splitlines()[0].partition("UTC, ")[2] for block in written.split("\n\n")[:-1]]
    assert heads == ["every 5 s", "every 5 s, next in 10 s since the API asks to slow down", "every 5 s"]
    assert pauses == [5, 10, 5]


@pytest.mark.parametrize(
    ("term", "redraws"), [("xterm-256color", True), ("dumb", False), ("", False), (None, False)], ids=str
)
def test_a_terminal_is_drawn_over_unless_it_is_a_dumb_one(
    zones: Zones,
    watched: Callable[..., tuple[str, list[float]]],
    monkeypatch: pytest.MonkeyPatch,
    term: str | None,
    redraws: bool,
) -> None:
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    written, _ = watched(Screen(), heals(zones))
    assert ("\x1b" in written) is redraws
    assert written.startswith("\x1b[2J\x1b[H2026-11-24") is redraws
    assert written.count("\x1b[H") == (2 if redraws else 0)
    assert written.count("\x1b[2J") == (1 if redraws else 0)


def test_what_does_not_fit_a_terminal_is_cut_so_that_it_does_not_scroll(
    zones: Zones, watched: Callable[..., tuple[str, list[float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "12")
    zones.instances["ch-gva-2"] += [instance(id=f"{n:036}") for n in range(9)]
    frame = watched(Screen())[0].partition("\x1b[H")[2].removesuffix("\x1b[J")
    lines = frame.split("\x1b[K\n")
    assert (len(lines), lines[-1]) == (12, "")
    assert max(len(line) for line in lines) <= 59
