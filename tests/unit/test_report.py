"""The forwarder's status: JSON for everybody, Prometheus' text for whoever asks for it, in its grammar."""

import json
import math
import re
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from client import report
from client.forwarder import Forwarder
from client.http1 import parse_request
from client.settings import Secret
from client.source import Place
from tests.fakes import KEY

DEADLINE = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
PLACE = Place(
    id="an-id",
    zone="ch-gva-2",
    address="127.0.0.9",
    port=11435,
    key=Secret(KEY),
    fingerprint="f" * 64,
    idle_s=1800.0,
    deadline=DEADLINE,
)


def forwarder(**changes: Any) -> Forwarder:
    """The part of a forwarder that is reported on; one that is asleep and was never used."""
    keeper = {
        "place": None,
        "state": "asleep",
        "board": SimpleNamespace(phase="", percent=None),
        "waking_s": 0.0,
        "failure": None,
        "idle_s": math.inf,
        "held": 0,
        "woken": 0,
        "looked_at": lambda: None,
    }
    own = {"active": 0, "closing": False, "began": 100.0, "now": lambda: 160.25, "counts": Counter[str]()}
    keeper |= {name: value for name, value in changes.items() if name in keeper}
    own |= {name: value for name, value in changes.items() if name in own}
    return cast("Forwarder", SimpleNamespace(keeper=SimpleNamespace(**keeper), **own))


WAKING: dict[str, Any] = {
    "state": "waking",
    "board": SimpleNamespace(phase="model", percent=41.5),
    "waking_s": 12.34,
    "active": 4,
    "held": 3,
}
READY: dict[str, Any] = {
    "state": "ready",
    "place": PLACE,
    "board": SimpleNamespace(phase="ready", percent=None),
    "idle_s": 7.77,
    "active": 2,
    "held": 0,
    "woken": 1,
    "counts": Counter(forwarded=5, local=2, unheard_of=1),
}


def ask(one: Forwarder, target: str = "/.exollama/status", *fields: str, method: str = "GET") -> Any:
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *fields, "", ""])
    return report.answer(one, parse_request(head.encode()))


def test_while_nothing_happened_what_is_not_known_is_null() -> None:
    assert json.loads(ask(forwarder()).body) == {
        "state": "asleep",
        "phase": None,
        "percent": None,
        "waking_s": None,
        "error": None,
        "instance": None,
        "idle_s": None,
        "idle_timeout_s": None,
        "deadline": None,
        "in_flight": 0,
        "held": 0,
        "wakes": 0,
        "requests": dict.fromkeys(report.OUTCOMES, 0),
        "uptime_s": 60.2,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (WAKING, {"state": "waking", "phase": "model", "percent": 41.5, "waking_s": 12.3, "in_flight": 0, "held": 3}),
        (
            READY,
            {
                "state": "ready",
                "phase": None,
                "percent": None,
                "waking_s": None,
                "instance": {"id": "an-id", "zone": "ch-gva-2", "address": "127.0.0.9"},
                "idle_s": 7.8,
                "idle_timeout_s": 1800.0,
                "deadline": "2026-12-01T12:00:00+00:00",
                "in_flight": 1,
                "wakes": 1,
            },
        ),
        ({"state": "failed", "failure": "quota"}, {"state": "failed", "error": "quota", "phase": None}),
        ({**READY, "closing": True}, {"state": "stopping"}),
        ({**READY, "idle_s": 0.0}, {"idle_s": 0.0}),
    ],
    ids=["waking", "ready", "failed", "stopping", "in use"],
)
def test_state_phase_requests_idle_seconds_and_deadline_are_told(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    told = json.loads(ask(forwarder(**changes)).body)
    assert {name: told[name] for name in expected} == expected
    assert KEY not in json.dumps(told)


@pytest.mark.parametrize(
    ("target", "fields", "prometheus"),
    [
        ("/.exollama/status", [], False),
        ("/.exollama/status", ["Accept: */*"], False),
        ("/.exollama/status", ["Accept: application/json"], False),
        ("/.exollama/status", ["Accept: text/html,application/xhtml+xml,*/*;q=0.8"], False),
        ("/.exollama/status?format=json", [], False),
        ("/.exollama/status?format=prometheus", [], True),
        ("/.exollama/status?a=b&format=prometheus", ["Accept: application/json"], True),
        ("/.exollama/status", ["Accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], True),
        (
            "/.exollama/status",
            ["accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3"],
            True,
        ),
        ("/.exollama/status", ["X-Accept: version=0.0.4"], False),
    ],
)
def test_the_form_is_the_one_that_is_asked_for(target: str, fields: list[str], prometheus: bool) -> None:
    reply = ask(forwarder(), target, *fields)
    assert reply.status == 200
    assert reply.content_type.startswith(b"text/plain; version=0.0.4" if prometheus else b"application/json")
    assert reply.body.startswith(b"# TYPE" if prometheus else b"{")


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/.exollama/status", "HEAD", 200),
        ("/.exollama/status", "POST", 405),
        ("/.exollama/status", "DELETE", 405),
        ("/.exollama/touch", "POST", 404),
        ("/.exollama/", "POST", 405),
        ("/.exollama", "DELETE", 405),
        ("/.exollama/status/", "GET", 404),
        ("/%2eexollama/status", "GET", 404),
        ("/.exollama/proof", "GET", 404),
    ],
)
def test_there_is_one_path_that_can_be_read_and_none_that_does_anything(target: str, method: str, status: int) -> None:
    assert ask(forwarder(), target, method=method).status == status


@pytest.mark.parametrize(("method", "looks"), [("GET", 1), ("POST", 0)])
def test_whoever_looks_has_the_state_made_sure_of(method: str, looks: int) -> None:
    seen: list[None] = []
    ask(forwarder(looked_at=lambda: seen.append(None)), method=method)
    assert len(seen) == looks


# The text format (prometheus.io, exposition formats): a TYPE before a family's samples, each family in one piece.
SAMPLE = re.compile(
    r'([a-z_:][a-z0-9_:]*)(?:\{([a-z_]+)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"\})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)'
)


def metrics(text: str) -> dict[tuple[str, str], float]:
    """The samples by name and label; strict about everything around them."""
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    kinds: dict[str, str] = {}
    found: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            kind = re.fullmatch(r"# TYPE ([a-z_]+) (gauge|counter)", line)
            assert kind, line
            assert kind[1] not in kinds, "a family in two pieces"
            kinds[kind[1]] = kind[2]
            assert kind[1].endswith("_total") is (kind[2] == "counter")
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] == list(kinds)[-1], "a sample outside its family"
        label = (sample[1], sample[3] or "")
        assert label not in found
        found[label] = float(sample[4])
    assert {name for name, _ in found} == set(kinds)
    return found


@pytest.mark.parametrize(
    ("changes", "expected", "absent"),
    [
        (
            {},
            {("exollama_state", "asleep"): 1, ("exollama_state", "ready"): 0, ("exollama_wakes_total", ""): 0},
            ["exollama_idle_seconds", "exollama_deadline_timestamp_seconds", "exollama_phase"],
        ),
        (
            WAKING,
            {
                ("exollama_state", "waking"): 1,
                ("exollama_phase", "model"): 1,
                ("exollama_waking_percent", ""): 41.5,
                ("exollama_waking_seconds", ""): 12.3,
                ("exollama_requests_held", ""): 3,
            },
            ["exollama_idle_seconds"],
        ),
        (
            READY,
            {
                ("exollama_state", "ready"): 1,
                ("exollama_idle_seconds", ""): 7.8,
                ("exollama_idle_timeout_seconds", ""): 1800,
                ("exollama_deadline_timestamp_seconds", ""): DEADLINE.timestamp(),
                ("exollama_requests_in_flight", ""): 1,
                ("exollama_requests_total", "forwarded"): 5,
                ("exollama_requests_total", "broken"): 0,
                ("exollama_wakes_total", ""): 1,
            },
            ["exollama_phase", "exollama_waking_seconds"],
        ),
        ({"closing": True}, {("exollama_state", "stopping"): 1, ("exollama_state", "asleep"): 0}, []),
        (
            {**WAKING, "board": SimpleNamespace(phase='odd "\\ one', percent=None)},
            {("exollama_phase", r"odd \"\\ one"): 1},
            ["exollama_waking_percent"],
        ),
    ],
    ids=["asleep", "waking", "ready", "stopping", "an odd phase"],
)
def test_prometheus_reads_the_same_numbers_and_what_is_not_known_is_left_out(
    changes: dict[str, Any], expected: dict[tuple[str, str], float], absent: list[str]
) -> None:
    found = metrics(ask(forwarder(**changes), "/.exollama/status?format=prometheus").body.decode())
    assert {label: found.get(label) for label in expected} == expected
    assert [name for name, _ in found if name in absent] == []
    assert sum(value for (name, _), value in found.items() if name == "exollama_state") == 1
