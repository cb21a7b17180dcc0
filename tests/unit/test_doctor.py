"""The verdicts of `doctor`, from what was seen to what is said, and how findings read."""

import json
import re
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

import functions.doctor
from client import cli, verbs
from client.errors import ApiError, Denied, ExollamaError
from functions import findings, fit, reapers
from functions.doctor import _Check, _made, clock_apart, disk, in_time, memory, price, quotas, reaper
from functions.findings import FAILED, OK, UNCHECKED, WARNING, Finding, failed, ok, unchecked, warning
from tests.fakes import API_KEY, API_SECRET, settings

GIB = fit.GIB
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("skew_s", "state", "words"),
    [
        (None, UNCHECKED, "no answer"),
        (0.0, OK, "as the API's"),
        (59.0, OK, "as the API's"),
        (61.0, WARNING, "0:01:01 behind the API's"),
        (-599.0, WARNING, "0:09:59 ahead of the API's"),
        (1200.0, FAILED, "0:20:00 behind the API's"),
        (-90000.0, FAILED, "1 day, 1:00:00 ahead of the API's"),
    ],
)
def test_a_clock_is_told_with_how_far_it_is_off(skew_s: float | None, state: str, words: str) -> None:
    finding = clock_apart(skew_s)
    assert finding.state == state
    assert words in finding.says


@pytest.mark.parametrize(
    ("model", "has_gib", "notes", "state", "words"),
    [
        ("granite3.1-dense:8b", 8, [], OK, "6.0 GiB"),
        ("granite3.1-dense:8b", 8, ["taking standard.large"], OK, "has 8.0"),
        ("granite3.1-dense:8b", 4, [], WARNING, "has 4.0"),
        ("granite3.1-dense:8b", 8, ["Warning: too little on the card."], WARNING, "too little on the card."),
        ("mystery:latest", 64, [], WARNING, "does not tell its size"),
    ],
)
def test_memory_is_held_against_what_the_model_needs(
    model: str, has_gib: int, notes: list[str], state: str, words: str
) -> None:
    finding = memory(settings(model=model), "standard.large", has_gib * GIB, notes)
    assert finding.state == state
    assert words in finding.says


@pytest.mark.parametrize(
    ("model", "disk_gib", "state"),
    [("granite3.1-dense:8b", 15, OK), ("granite3.1-dense:8b", 14, FAILED), ("mystery", 50, WARNING), ("m", 9, FAILED)],
)
def test_a_disk_is_held_against_what_the_model_needs(model: str, disk_gib: int, state: str) -> None:
    assert disk(settings(model=model, disk_gib=disk_gib)).state == state


@pytest.mark.parametrize(
    ("name", "most", "state", "words"),
    [
        ("standard.large", None, OK, "about 0.10033 per hour"),
        ("standard.large", 0.11, OK, "at most 0.11"),
        ("standard.large", 0.09, FAILED, "EXOSCALE_MAX_HOURLY_COST is 0.09. To do: Raise it"),
        ("standard.new", None, WARNING, "no price known"),
        ("standard.new", 5.0, FAILED, "no price known here, and EXOSCALE_MAX_HOURLY_COST is 5.0. To do: Unset it"),
    ],
)
def test_a_price_is_held_against_what_an_hour_may_cost(name: str, most: float | None, state: str, words: str) -> None:
    finding = price(settings(max_hourly_cost=most), name)
    assert finding.state == state
    assert words in f"{finding.says} To do: {finding.do}"


def row(resource: str, usage: object, limit: object) -> dict[str, object]:
    return {"resource": resource, "usage": usage, "limit": limit}


@pytest.mark.parametrize(
    ("rows", "wanted", "has_instance", "states"),
    [  # a small one has one card, a medium one two
        ([row("instance", 3, 20)], "standard.large", False, [OK]),
        ([row("instance", 20, 20)], "standard.large", False, [FAILED]),
        ([row("instance", 20, 20)], "standard.large", True, [WARNING]),
        ([row("instance", 20, -1)], "standard.large", False, [OK]),
        ([], "standard.large", False, [UNCHECKED]),
        ([row("instance", "many", None)], "standard.large", False, [UNCHECKED]),
        ([row("instance", 0, 20), row("gpua30", 0, 0)], "gpua30.small", False, [OK, FAILED]),
        ([row("instance", 0, 20), row("gpua30", 0, 1)], "gpua30.small", False, [OK, OK]),
        ([row("instance", 0, 20), row("gpua30", 0, 2)], "gpua30.medium", False, [OK, OK]),
        ([row("instance", 0, 20), row("gpua30", 0, 1)], "gpua30.medium", False, [OK, WARNING]),
        ([row("instance", 0, 20), row("gpua30", 1, 2)], "gpua30.medium", False, [OK, WARNING]),
        ([row("instance", 0, 20), row("gpu3", 0, 1)], "gpua30.small", False, [OK, UNCHECKED]),
        ([row("instance", 0, 20), row("gpua30", 0, 0)], "standard.large", False, [OK]),
    ],
)
def test_quotas_are_told_for_instances_and_for_the_gpu_family_that_is_set(
    rows: list[dict[str, object]], wanted: str, has_instance: bool, states: list[str]
) -> None:
    found = quotas(rows, wanted, cards=1 + wanted.endswith("medium"), has_instance=has_instance)
    assert [one.state for one in found] == states


def late(why: str | None) -> dict[str, Any]:
    return {"zone": "ch-gva-2", "id": "i", "name": "exollama", "overdue": why}


@pytest.mark.parametrize(
    ("instances", "trouble", "states", "words"),
    [
        ([], [], [OK], "ch-gva-2"),
        ([late(None)], [], [OK], "nothing"),
        ([late(None), late("idle for 5 h")], [], [FAILED], "idle for 5 h"),
        ([late("a"), late("b")], ["de-fra-1 was not looked at."], [FAILED, FAILED, UNCHECKED], "should be gone: a"),
        ([], ["x was not looked at.", "y was not looked at."], [UNCHECKED], "And 1 more"),
    ],
)
def test_what_a_reaper_left_behind_is_told_each(
    instances: list[dict[str, Any]], trouble: list[str], states: list[str], words: str
) -> None:
    found = in_time({"zones": ["ch-gva-2"], "instances": instances, "foreign": [], "failed": trouble})
    assert [one.state for one in found] == states
    assert words in found[0].says


def test_without_a_reaper_here_and_with_one_that_cannot_run_there_is_a_line_to_add() -> None:
    assert reaper(["this user's crontab"], []).state == OK
    for where, lacks in (([], []), (["this user's crontab"], ["the program", "the file with the settings"])):
        found = reaper(where, lacks)
        assert found.state == WARNING
        assert found.do.endswith(reapers.cron_line())
        assert " and ".join(lacks) in found.says


def raising(error: Exception) -> Callable[[], list[Finding]]:
    def look() -> list[Finding]:
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "states", "says", "do"),
    [
        (ApiError("GET", "/x", 503, "it rests (503)."), [UNCHECKED, UNCHECKED], "it rests", "few minutes"),
        (Denied("GET", "/x", 403, "no."), [UNCHECKED, UNCHECKED], "GET /x: no.", "provisioner's key"),
        (ExollamaError("There is none. Nothing was created."), [FAILED, UNCHECKED], "There is none.", "this"),
        (ValueError("seven"), [FAILED, FAILED], "unexpected ValueError: seven.", "report"),
    ],
    ids=["a fault", "denied", "a verdict", "a mistake of ours"],
)
def test_a_check_that_cannot_be_made_is_a_finding_of_each_of_its_names(
    error: Exception, states: list[str], says: str, do: str
) -> None:
    found = _made(_Check(raising(error), ("type", "memory"), "Do this."))
    assert [one.check for one in found] == ["type", "memory"]
    assert [one.state for one in found] == states
    assert says in found[0].says
    assert "Nothing was created" not in found[0].says
    assert do in found[0].do


# -- how it reads


FOUND = [
    ok("API", "it answers."),
    warning("clock", "it is late.", "Set it."),
    unchecked("start-instance", "nothing calls it.", "Add it."),
    failed("price", "too dear.", "Raise it."),
    unchecked("stop-instance", "nothing calls it.", "Add it."),
]
SHOWN = [{"check": one.check, "state": one.state, "says": one.says, "do": one.do} for one in FOUND]


def test_findings_read_without_colour_a_line_each_and_those_alike_on_one() -> None:
    assert findings.text(SHOWN).splitlines() == [
        "ok    API: it answers.",
        "warn  clock: it is late. To do: Set it.",
        "skip  start-instance, stop-instance: nothing calls it. To do: Add it.",
        "FAIL  price: too dear. To do: Raise it.",
        "",
        "1 ok, 1 warning, 1 failed, 2 not checked",
    ]
    assert findings.text([*SHOWN, SHOWN[1]]).endswith("1 ok, 2 warnings, 1 failed, 2 not checked")
    assert findings.text([]).endswith("0 ok, 0 warnings, 0 failed, 0 not checked")


def test_colour_adds_to_the_words_and_replaces_none() -> None:
    coloured = findings.text(SHOWN, colour=True)
    assert "\x1b[1;31mFAIL\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == findings.text(SHOWN)


class Terminal(StringIO):
    def __init__(self, *, is_one: bool) -> None:
        super().__init__()
        self.is_one = is_one

    def isatty(self) -> bool:
        return self.is_one


@pytest.mark.parametrize(
    ("terminal", "env", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
    ids=["a terminal", "NO_COLOR empty", "NO_COLOR", "dumb", "a pipe"],
)
def test_there_is_colour_on_a_terminal_only_and_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, env: dict[str, str], coloured: bool
) -> None:
    out = doctor(monkeypatch, Terminal(is_one=terminal), {"TERM": "xterm", **env}, failures=0)
    assert ("\x1b[" in out) is coloured


@pytest.mark.parametrize("failures", [0, 2])
def test_the_exit_code_tells_whether_anything_failed(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    out = doctor(monkeypatch, StringIO(), {}, "--json", failures=failures)
    assert json.loads(out) == {"failed": failures, "findings": SHOWN}


def doctor(monkeypatch: pytest.MonkeyPatch, stdout: StringIO, env: dict[str, str], *flags: str, failures: int) -> str:
    """What the verb prints of such a result, on such a stdout."""
    credentials = {"EXOSCALE_API_KEY": API_KEY, "EXOSCALE_API_SECRET": API_SECRET}
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**credentials, **env}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(functions.doctor, "run", lambda *_, **__: {"failed": failures, "findings": SHOWN})
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli.main(["doctor", *flags]) == (1 if failures else 0)
    return stdout.getvalue()


def test_without_urllib3_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXOSCALE_API_KEY", API_KEY)
    monkeypatch.setenv("EXOSCALE_API_SECRET", API_SECRET)
    monkeypatch.setattr(verbs, "has_urllib3", lambda: False)
    assert cli.main(["doctor"]) == 2
    assert "doctor and reaping need urllib3" in capsys.readouterr().err
