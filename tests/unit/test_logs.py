"""An instance in words: what it says of itself is a stranger's, and what is missing is said to be."""

from typing import Any

import pytest

from client.logs import GAP, text, unseen
from tests.fakes import status


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ([], [], []),
        ([], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b", "c"], ["b", "c", "d"], ["d"]),
        (["a", "b", "c"], ["c", "d", "e"], ["d", "e"]),
        (["a", "b"], ["c", "d"], [GAP, "c", "d"]),
        (["a", "a", "a"], ["a", "a", "a"], []),
        (["a", "b", "a"], ["b", "a", "b"], ["b"]),
        (["a", "b"], [], []),
    ],
    ids=["nothing", "first", "same", "one", "moved on", "further", "missed", "alike", "again", "emptied"],
)
def test_of_a_log_s_end_the_lines_that_were_not_there_before_are_new(
    before: list[str], after: list[str], new: list[str]
) -> None:
    assert unseen(before, after) == new


def described(said: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "id": "an-id",
        "name": "exollama",
        "zone": "ch-gva-2",
        "state": "running",
        "address": "198.51.100.7",
        "model": "granite3.1-dense:8b",
        "type": "standard.large",
        "type_id": "an-id-of-a-type",
        "created": "2026-11-24T11:00:00+00:00",
        "activity": "2026-11-24T11:30:00+00:00",
        "idle_timeout_s": 1800,
        "deadline": "2026-12-01T11:00:00+00:00",
        "action": "destroy",
        "said": said,
        "trouble": None,
    } | changes


def booting(**boot: Any) -> dict[str, Any]:
    said = status()
    return said | {"boot": said["boot"] | boot}


def test_the_details_of_the_api_and_of_the_instance_itself_are_shown() -> None:
    said = status(idle_s=300.0, in_flight=2) | {"requests": 12, "versions": {"agent": 1, "exollama": "0.1.0"}}
    assert text(described(said)).splitlines() == [
        "exollama in ch-gva-2: running",
        "  id            an-id",
        "  address       198.51.100.7:11435",
        "  model         granite3.1-dense:8b",
        "  type          standard.large",
        "  created       2026-11-24T11:00:00+00:00",
        "  last use      2026-11-24T11:30:00+00:00 (by its label)",
        "  idle timeout  30 min",
        "  deadline      2026-12-01T11:00:00+00:00",
        "  once idle     destroyed",
        "  idle for      5 min",
        "  in flight     2 of 12 requests so far",
        "  fence         none",
        "  versions      agent 1, exollama 0.1.0",
        "  boot          ready, after 1 s",
        "  log's end",
        "  | first line",
        "  | last line",
    ]


def test_each_phase_of_the_boot_has_its_seconds_and_a_bar_the_present_one_among_them() -> None:
    phases = [{"phase": "nginx", "seconds": 10.0}, {"phase": "docker", "seconds": 40.04}]
    shown = text(described(booting(phase="model", percent=41.6, elapsed_s=110.04, phases=phases)))
    assert shown.split("log's end")[0].splitlines()[-5:-1] == [
        "  boot          model 42 %, for 110 s",
        "    nginx             10.0 s  =====",
        "    docker            40.0 s  ====================",
        "    model             60.0 s  ==============================",
    ]


def test_a_boot_that_has_only_begun_shows_its_first_phase_as_it_will_show_it_later() -> None:
    shown = text(described(booting(phase="starting", elapsed_s=4.04, phases=[])))
    assert "  boot          starting, for 4 s\n    starting           4.0 s  ====" in shown


def test_the_error_of_a_boot_is_shown_with_its_phase() -> None:
    said = status(failed="docker")
    assert "  boot          failed, after 1 s\n  error         docker: it broke\n" in text(described(said))


@pytest.mark.parametrize(
    ("fence", "words"),
    [
        ({"lease_s": 113.0, "committed": False}, "up for 113.0 s at most"),
        ({"lease_s": 0.0, "committed": True, "committed_s": 3}, "committed: it is being removed"),
    ],
    ids=["up", "committed"],
)
def test_a_fence_is_told(fence: dict[str, Any], words: str) -> None:
    assert words in text(described(status(fence=fence)))


def test_what_only_the_api_knows_is_shown_where_the_instance_says_nothing() -> None:
    shown = text(
        described(
            None, type=None, state="stopped", address=None, model=None, deadline=None, activity=None, action="stop"
        )
    )
    assert "  address       none yet\n" in shown
    assert "  type          an-id-of-a-type\n" in shown
    assert "  deadline      none\n" in shown
    assert "  once idle     stopped" in shown
    assert "in flight" not in shown
    assert "log's end" not in shown


@pytest.mark.parametrize(
    "odd",
    [
        {"percent": "many", "elapsed_s": None, "phases": 7, "error": "broken"},
        {"percent": True, "elapsed_s": -3, "phases": [None, {}, {"phase": ["x"], "seconds": "3"}]},
        {"percent": 1e308, "elapsed_s": float("nan"), "phases": {"a": 1}, "error": {"message": {"a": 1}}},
        {"phase": "x\ud800", "error": {"phase": "\x1b[2J", "message": "\x07bell"}},
    ],
    ids=["other kinds", "other values", "no numbers", "escapes"],
)
def test_whatever_an_instance_says_is_shown_as_words_that_no_terminal_obeys(odd: dict[str, Any]) -> None:
    said = booting(**odd) | {"requests": ["x"], "versions": {"a\x1b[31m": "b\x07", "c": []}}
    shown = text(described(said, name="n\x1b[2J", model="m\x9b2J"))
    assert shown.replace("\n", "").encode("utf-8", "replace").decode().isprintable()
