"""What people and Prometheus are shown of a result of status: tables, and metrics read by Prometheus' own client."""

import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed

from functions import shown
from tests.fakes import status

RUNNING: dict[str, Any] = {
    "id": "0a1b2c3d-0000-4000-8000-000000000001",
    "name": "exollama",
    "zone": "ch-gva-2",
    "state": "running",
    "type": "standard.large",
    "disk_gib": 50,
    "model": "granite3.1-dense:8b",
    "deadline": "2026-11-30T12:00:00+00:00",
    "deadline_s": 500_000,
    "age_s": 86_400,
    "idle_s": 1_000,
    "idle_timeout_s": 1_800,
    "goes_in_s": 1_250,
    "hourly_cost": 0.10033,
    "cost": 2.40792,
    "stops": False,
    "reap": {"decision": "keep", "reason": "used 16 min ago"},
    "said": None,
    "overdue": None,
}
STOPPED = RUNNING | {
    "id": "0a1b2c3d-0000-4000-8000-000000000002",
    "state": "stopped",
    "zone": "de-fra-1",
    "type": "gpu3.small",
    "goes_in_s": 90_000,
    "hourly_cost": 0.007,
    "cost": 25.248,
    "stops": True,
    "reap": {"decision": "keep", "reason": "stopped, its disk kept until 2026-11-25 13:00 UTC"},
}
UNKNOWN = RUNNING | dict.fromkeys(
    ("type", "disk_gib", "model", "age_s", "idle_s", "goes_in_s", "hourly_cost", "cost", "deadline", "deadline_s")
)
GONE = UNKNOWN | {"state": "destroying"}


def result(*instances: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "time": "2026-11-24T12:00:00+00:00",
        "prices_as_of": "2026-10",
        "zones": ["ch-gva-2", "de-fra-1"],
        "unseen": [],
        "instances": list(instances),
        "foreign": [],
        "failed": [],
        "notes": [],
    } | changes


TWO = """\
name      state    zone      type            model                age     idle  goes in  cost, about
exollama  running  ch-gva-2  standard.large  granite3.1-dense:8b  24h 0m  16m   20m      2.41
  0a1b2c3d-0000-4000-8000-000000000001  used 16 min ago
exollama  stopped  de-fra-1  gpu3.small      granite3.1-dense:8b  24h 0m  16m   25h 0m   at most 25.25
  0a1b2c3d-0000-4000-8000-000000000002  stopped, its disk kept until 2026-11-25 13:00 UTC
1 running, 1 stopped, about 0.11 per hour, at most about 27.66 so far (CHF, EUR or USD; prices of 2026-10)"""
NARROW = """\
name      state    zone      age     idle  goes in  cost, about
exollama  running  ch-gva-2  24h 0m  16m   20m      2.41
  0a1b2c3d-0000-4000-8000-000000000001  standard.large  granite3.1-dense:8b
    used 16 min ago
exollama  stopped  de-fra-1  24h 0m  16m   25h 0m   at most 25.25
  0a1b2c3d-0000-4000-8000-000000000002  gpu3.small  granite3.1-dense:8b
    stopped, its disk kept until 2026-11-25 13:00 UTC
1 running, 1 stopped, about 0.11 per hour, at most about 27.66 so far (CHF, EUR
  or USD; prices of 2026-10)"""
NOT_KNOWN = """\
name      state    zone      type  model  age  idle  goes in  cost, about
exollama  running  ch-gva-2  ?     ?      ?    ?     ?        ?
  0a1b2c3d-0000-4000-8000-000000000001  used 16 min ago
1 running (the hourly price of 1 is not known)
Types and costs are not known: Forbidden."""


@pytest.mark.parametrize(
    ("given", "width", "table"),
    [
        (result(RUNNING, STOPPED), None, TWO),
        (result(RUNNING, STOPPED), 120, TWO),
        (result(RUNNING, STOPPED), 80, NARROW),
        (result(UNKNOWN, notes=["Types and costs are not known: Forbidden."]), None, NOT_KNOWN),
        (result(), None, "No owned instance in ch-gva-2, de-fra-1: nothing runs, nothing costs."),
        (result(zones=[]), None, "Nothing is known: no zone could be looked at."),
    ],
    ids=["two", "two, wide", "two, narrow", "nothing known", "nothing there", "nothing seen"],
)
def test_the_table(given: dict[str, Any], width: int | None, table: str) -> None:
    assert shown.text(given, width) == table


@pytest.mark.parametrize("width", [60, 66, 80, 100, 102, 120])
def test_a_table_never_wraps_where_it_can_be_helped(width: int) -> None:
    trouble = RUNNING | {"reap": {"reason": "cannot be asked: " + "it is silent. " * 20}, "said": {"trouble": "x"}}
    for line in shown.text(result(RUNNING, trouble), width).splitlines():
        assert len(line) <= max(width, 64)


@pytest.mark.parametrize(
    ("changes", "cells"),
    [
        ({"goes_in_s": 0}, {"goes in": "now"}),
        ({"goes_in_s": 119}, {"goes in": "119s"}),
        ({"goes_in_s": 7199}, {"goes in": "119m"}),
        ({"goes_in_s": 7200}, {"goes in": "2h 0m"}),
        ({"goes_in_s": 2 * 86400 + 3600}, {"goes in": "2d 1h"}),
        ({"goes_in_s": None}, {"goes in": "?"}),
        ({"goes_in_s": None, "said": status(phase="docker")}, {"goes in": "-"}),
        ({"goes_in_s": None, "state": "starting"}, {"goes in": "-"}),
        ({"goes_in_s": None, "said": status(in_flight=2)}, {"goes in": "in use"}),
        ({"cost": 0.0123}, {"cost, about": "0.012"}),
        ({"stops": True}, {"cost, about": "at most 2.41"}),
        ({"cost": None, "stops": True}, {"cost, about": "?"}),
        ({"name": "a\x1b[2Jb"}, {"name": "a [2Jb"}),
    ],
    ids=str,
)
def test_a_cell(changes: dict[str, Any], cells: dict[str, str]) -> None:
    assert {name: shown._cells(RUNNING | changes)[name] for name in cells} == cells


@pytest.mark.parametrize(
    ("state", "said", "words"),
    [
        ("running", status(phase="model"), "000000000001  model  used"),
        ("running", {"trouble": "silent"}, "000000000001  no answer  used"),
        ("running", None, "000000000001  used"),
        ("stopped", {"trouble": "stopped"}, "000000000001  used"),
    ],
    ids=["asked", "silent", "not asked", "stopped, who never answers"],
)
def test_the_phase_stands_beside_the_reason_where_it_was_asked(state: str, said: Any, words: str) -> None:
    assert words in shown.text(result(RUNNING | {"state": state, "said": said}))


@pytest.mark.parametrize(
    ("instances", "words"),
    [
        ([RUNNING, RUNNING], "2 running, about 0.20 per hour, about 4.82 so far ("),
        ([STOPPED], "1 stopped, about 0.007 per hour, at most about 25.25 so far ("),
        ([STOPPED | {"hourly_cost": None, "disk_gib": None}], "; the hourly price of 1 is not known; without disks"),
        ([RUNNING, UNKNOWN], "2 running, about 0.10 per hour, about 2.41 so far (CHF, EUR or USD; prices of 2026-10; "),
        ([RUNNING | {"disk_gib": None}], "prices of 2026-10; without disks, whose size --probe reads)"),
        ([RUNNING | {"stops": True}], "1 running, about 0.10 per hour, at most about 2.41 so far ("),
        ([GONE], "nothing runs"),
        ([RUNNING, GONE], "1 running, about 0.10 per hour, about 2.41 so far (CHF, EUR or USD; prices of 2026-10)"),
    ],
    ids=[
        "two",
        "stopped",
        "stopped, disk not known",
        "one not known",
        "without its disk",
        "maybe stopped meanwhile",
        "gone",
        "one gone",
    ],
)
def test_the_sum(instances: list[dict[str, Any]], words: str) -> None:
    assert words in shown.text(result(*instances)).splitlines()[-1]


def test_who_ends_within_a_day_is_named() -> None:
    assert shown.ending(result(RUNNING, STOPPED | {"deadline_s": 86_399}, UNKNOWN)) == [
        f"de-fra-1 {STOPPED['id']} reaches its deadline at 2026-11-30T12:00:00+00:00."
    ]


# -- Prometheus

ODD: list[Any] = [{"phase": "odd"}, "odd", *({"phase": "odd", "seconds": odd} for odd in (True, math.nan, "5", -1))]
PHASES = [{"phase": "nginx", "seconds": 2.5}, {"phase": "a\ud800b", "seconds": 1}, *ODD]
BOOT = status() | {"boot": {"phase": "ready", "phases": PHASES}}


def read(given: dict[str, Any]) -> dict[str, list[tuple[dict[str, str], float]]]:
    families = list(parsed(shown.prometheus(given)))
    assert len({family.name for family in families}) == len(families)
    assert all(family.type == "gauge" and family.documentation for family in families)
    return {family.name: [(one.labels, one.value) for one in family.samples] for family in families}


def test_prometheus_reads_every_number() -> None:
    own = {name: RUNNING[name] for name in ("id", "name", "zone", "state")}
    assert read(result(RUNNING | {"said": BOOT, "overdue": "idle for 5 h"}, unseen=["at-vie-1"])) == {
        "exollama_zone_up": [({"zone": "ch-gva-2"}, 1), ({"zone": "de-fra-1"}, 1), ({"zone": "at-vie-1"}, 0)],
        "exollama_instance_info": [(own | {"type": "standard.large", "model": "granite3.1-dense:8b"}, 1)],
        "exollama_instance_age_seconds": [(own, 86_400)],
        "exollama_instance_idle_seconds": [(own, 1_000)],
        "exollama_instance_idle_timeout_seconds": [(own, 1_800)],
        "exollama_instance_goes_in_seconds": [(own, 1_250)],
        "exollama_instance_cost_about": [(own, 2.40792)],
        "exollama_instance_hourly_cost_about": [(own, 0.10033)],
        "exollama_instance_deadline_timestamp_seconds": [(own, 1_796_040_000)],
        "exollama_instance_overdue": [(own, 1)],
        "exollama_instance_boot_phase_seconds": [
            (own | {"phase": name}, took) for name, took in (("nginx", 2.5), ("a b", 1))
        ],
    }


def test_what_is_not_known_is_no_metric() -> None:
    assert set(read(result(UNKNOWN))) == {
        "exollama_zone_up",
        "exollama_instance_info",
        "exollama_instance_idle_timeout_seconds",
        "exollama_instance_overdue",
    }
    assert set(read(result(zones=[], unseen=["ch-gva-2"]))) == {"exollama_zone_up"}


def test_metrics_of_several_instances_stand_together() -> None:
    found = read(result(RUNNING, STOPPED | {"name": 'odd "\\ one'}))
    assert [labels["name"] for labels, _ in found["exollama_instance_age_seconds"]] == ["exollama", 'odd "\\ one']
