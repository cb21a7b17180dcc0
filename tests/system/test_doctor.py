"""`exollama doctor` on the simulated zone, as its user sees it: what is wrong is found, and nothing is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path

import pytest

from client.endpoint import Endpoint
from functions import reapers
from tests.iam import POLICIES, without
from tests.simulator import ALWAYS, Simulator
from tests.simulator.driver import status
from tests.system.verbs import Clerk, Done, User, plant

KEY = "PLANTED-endpoint-key-0123456789-abcdefghij"
NOBODY = {"default-service-strategy": "deny", "services": {}}
UBUNTU = "Linux Ubuntu 22.04 LTS 64-bit"
READS = ("list-instances", "list-templates", "list-instance-types", "list-security-groups", "get-security-group")
FROM_ITSELF = ("reachable", "certificate", "key", "boot", "fence")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """This machine has no cron and no systemd but what a test gives it: the lines of a crontab."""
    monkeypatch.setattr(reapers.here, "__defaults__", ((),))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def program(name: str, lines: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
        path.chmod(0o755)

    program("systemctl", "")
    program("crontab", "")
    return lambda lines: program("crontab", lines)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The methods of all requests to an endpoint: whatever doctor does, they are GET."""
    methods: list[str] = []
    exchange = Endpoint._exchange

    def noting(endpoint: Endpoint, connection: HTTPSConnection, method: str, path: str, body: bytes) -> HTTPResponse:
        methods.append(method)
        return exchange(endpoint, connection, method, path, body)

    monkeypatch.setattr(Endpoint, "_exchange", noting)
    yield methods
    assert set(methods) <= {"GET"}


def diagnosed(user: User, *flags: str, code: int, **env: str) -> dict[str, dict[str, str]]:
    """The findings by their checks; all that was asked of the API was GET, and each that is not ok says what to do."""
    user.simulator.api.calls.clear()
    found = user.run("doctor", "--json", *flags, **env).ended(code).json["findings"]
    assert {call.method for call in user.simulator.calls} <= {"GET"}
    assert all(set(one) == {"check", "state", "says", "do"} for one in found)
    assert all(bool(one["do"]) is (one["state"] != "ok") for one in found)
    assert code == any(one["state"] == "failed" for one in found)
    return {one["check"]: one for one in found}


def states(found: Mapping[str, dict[str, str]]) -> dict[str, list[str]]:
    """The checks by their states."""
    return {state: [name for name, one in found.items() if one["state"] == state] for state in STATES}


STATES = ("ok", "warning", "failed", "not checked")


def test_a_healthy_account_fails_nothing_and_is_left_as_it_was(records: Simulator, clerk: Clerk) -> None:
    found = states(diagnosed(clerk, code=0))
    about = ["role", "disk", "template", "type", "memory", "price", "quota", "overdue"]
    assert found["ok"] == ["API", "credentials", "clock", *READS, *about]
    assert found["warning"] == ["reaper"]
    assert found["not checked"] == [
        *("get-instance", "get-operation"),
        *("create-security-group", "add-rule-to-security-group", "create-instance", "start-instance"),
        *("update-instance", "stop-instance", "delete-instance"),
        "instance",
    ]
    assert records.instances() == []
    assert [len(zone.groups) for zone in records.zones.values()] == [1, 1]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something that is wrong: how it comes about, the environment, and what fails, with some of its words."""

    fails: Mapping[str, str]
    before: Callable[[Simulator], object] = lambda simulator: None
    env: Callable[[Simulator], Mapping[str, str]] = lambda simulator: {}
    unchecked: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()
    after: Callable[[Simulator], object] = lambda simulator: None


def only(**env: str) -> Callable[[Simulator], Mapping[str, str]]:
    return lambda simulator: env


def without_template(simulator: Simulator) -> None:
    zone = simulator.zones["ch-gva-2"]
    for template in list(zone.templates.values()):
        if template["name"] == UBUNTU:
            del zone.templates[template["id"]]


def with_template(simulator: Simulator) -> None:
    from tests.simulator import catalogue

    zone = simulator.zones["ch-gva-2"]
    zone.templates = {one["id"]: one for one in catalogue.templates("ch-gva-2")}


TROUBLES = {
    "a wrong secret": Trouble(
        env=only(EXOSCALE_API_SECRET="wrong-0123456789-abcdefghij"),
        fails={"credentials": "Invalid request signature"},
        unchecked=("list-instances", "template", "type", "quota", "instance", "overdue", "role"),
    ),
    "a clock that is behind": Trouble(
        before=lambda simulator: simulator.skew(1230),
        fails={"clock": "0:20:"},
        unchecked=("credentials", "template", "type", "quota", "instance", "overdue"),
    ),
    "a clock that is ahead": Trouble(
        before=lambda simulator: simulator.skew(-1230), fails={"clock": "ahead of the API's"}, unchecked=("overdue",)
    ),
    "no such zone": Trouble(
        env=only(EXOSCALE_ZONE="at-vie-1"),
        fails={"API": "There is no zone at-vie-1. Zones: ch-gva-2, de-fra-1"},
        unchecked=("credentials", "template"),
        fine=("overdue",),
    ),
    "nobody answers": Trouble(
        env=only(EXOSCALE_API_ENDPOINT="http://127.0.0.1:9/{zone}/v2"),
        fails={"API": "cannot connect"},
        unchecked=("credentials", "clock", "template", "overdue"),
    ),
    "a role that allows nothing": Trouble(
        env=lambda simulator: simulator.role(NOBODY),
        fails=dict.fromkeys((*READS, "get-instance", "get-operation"), "denied") | {"role": "none of deploy/iam"},
        unchecked=("template", "type", "quota", "instance", "overdue"),
    ),
    "a GPU type without quota": Trouble(
        env=only(EXOSCALE_INSTANCE_TYPE="gpua30.small"),
        fails={"type": "gpua30.small", "quota of gpua30": "0 of 0 in use"},
        unchecked=("memory", "price"),
    ),
    "no such template here": Trouble(
        before=without_template,
        fails={"template": "It exists in de-fra-1."},
        after=with_template,
    ),
    "a template without drivers for the cards": Trouble(
        before=lambda simulator: simulator.options.authorized_gpus.add("gpua30"),
        env=only(EXOSCALE_INSTANCE_TYPE="gpua30.small", EXOSCALE_TEMPLATE="Linux Debian 12 (Bookworm) 64-bit"),
        fails={"template": "No GPU driver is known"},
        fine=("type", "memory", "price", "quota of gpua30", "disk"),
    ),
    "a disk that is too small for drivers": Trouble(
        before=lambda simulator: simulator.options.authorized_gpus.add("gpua30"),
        env=only(EXOSCALE_INSTANCE_TYPE="gpua30.small", EXOSCALE_DISK_SIZE="16"),
        fails={"disk": "need about 19"},
    ),
    "no such type": Trouble(
        env=only(EXOSCALE_INSTANCE_TYPE="standard.vast"),
        fails={"type": "There is no type standard.vast in ch-gva-2"},
        unchecked=("memory", "price"),
    ),
    "a disk that is too small": Trouble(env=only(EXOSCALE_DISK_SIZE="10"), fails={"disk": "need about 15"}),
    "too dear": Trouble(env=only(EXOSCALE_MAX_HOURLY_COST="0.01"), fails={"price": "about 0.10033 per hour"}),
    "a quota that is used up": Trouble(
        before=lambda simulator: setattr(simulator.options, "instance_quota", 0), fails={"quota": "0 of 0 in use"}
    ),
    "an instance that does not answer": Trouble(
        before=lambda simulator: plant(simulator, key=KEY, exollama_deadline="t20300101T000000Z", exollama_idle=IDLE),
        fails={"reachable": "cannot be reached"},
        unchecked=FROM_ITSELF[1:],
    ),
    "an instance that ended in error": Trouble(
        before=lambda simulator: plant(simulator, state="error"),
        fails={"instance": "is error", "overdue": "in state error"},
    ),
    "one that a reaper left": Trouble(
        before=lambda simulator: plant(simulator, key=KEY, zone="de-fra-1"),
        fails={"overdue": "de-fra-1"},
        unchecked=("instance",),
    ),
}
IDLE = "s315360000"
"""So long that its label, of January, does not make it overdue."""


@pytest.mark.parametrize("name", TROUBLES)
def test_what_is_wrong_fails_with_its_words_and_stops_no_other_check(
    records: Simulator, clerk: Clerk, name: str
) -> None:
    trouble = TROUBLES[name]
    trouble.before(records)
    before = records.instances()
    try:
        found = diagnosed(clerk, code=1, **trouble.env(records))
    finally:
        trouble.after(records)
    failing = states(found)["failed"]
    assert set(failing) == set(trouble.fails)
    for check, words in trouble.fails.items():
        assert words in found[check]["says"]
    assert set(trouble.unchecked) <= set(states(found)["not checked"])
    assert set(trouble.fine) <= set(states(found)["ok"])
    assert {"disk", "reaper"} <= set(found)
    assert records.instances() == before


def test_a_reapers_key_does_for_a_reaper_and_is_no_failure(records: Simulator, clerk: Clerk) -> None:
    found = diagnosed(clerk, code=0, **records.role(POLICIES["reaper"]))
    assert states(found)["warning"] == [*READS[1:], "reaper"]
    assert "for client.json and reaper.json; not for provisioner.json" in found["role"]["says"]
    assert [found[check]["state"] for check in ("template", "type", "memory", "price")] == ["not checked"] * 4
    assert "add list-templates to its policy" in found["template"]["says"]
    assert found["overdue"]["state"] == "ok"


def test_a_provisioners_key_has_all_but_the_quotas_which_nothing_else_needs(records: Simulator, clerk: Clerk) -> None:
    plant(records, key=KEY, exollama_idle=IDLE, created_ago_s=60)
    found = diagnosed(clerk, code=0, **records.role(POLICIES["provisioner"]))
    assert [found[check]["state"] for check in ("get-instance", "role", "quota")] == ["ok", "ok", "not checked"]
    assert "list-quotas" in found["quota"]["says"]
    assert found["reachable"]["state"] == "warning", "it may be booting"


HIT = {
    "list-instances": {"list-instances", "instance", "overdue"},
    "list-templates": {"list-templates", "template"},
    "list-instance-types": {"list-instance-types", "type", "memory", "price"},
    "list-security-groups": {"list-security-groups", "get-security-group"},
    "list-quotas": {"quota"},
    "get-operation": {"get-operation"},
}


@pytest.mark.parametrize("kind", ["503", "garbage", "reset"])
@pytest.mark.parametrize("operation", HIT)
def test_a_fault_of_one_call_leaves_only_what_hangs_on_it_unchecked(
    records: Simulator, clerk: Clerk, operation: str, kind: str
) -> None:
    usual = states(diagnosed(clerk, code=0))
    records.fault(operation, kind, times=ALWAYS)
    if operation == "list-instances" and kind == "reset":  # nobody answers where everything begins
        assert states(diagnosed(clerk, code=1))["failed"] == ["API"]
        return
    found = states(diagnosed(clerk, code=0))
    assert set(found["not checked"]) == set(usual["not checked"]) | HIT[operation]
    assert set(found["ok"]) == set(usual["ok"]) - HIT[operation]


def test_a_reaper_on_this_machine_is_named_without_its_line(
    records: Simulator, clerk: Clerk, machine: Callable[[str], None]
) -> None:
    machine("*/10 * * * * EXOSCALE_API_SECRET=hush exollama reap")
    found = diagnosed(clerk, code=0)["reaper"]
    assert found["state"] == "ok"
    assert "this user's crontab" in found["says"]
    assert "hush" not in json.dumps(found)
    machine("*/10 * * * * EXOSCALE_API_SECRET=hush /no/such/hush/exollama reap")
    found = diagnosed(clerk, code=0)["reaper"]
    assert found["state"] == "warning"
    assert "names what is not there: the program." in found["says"]
    assert "hush" not in json.dumps(found)


def test_no_secret_is_shown_however_much_is_told(
    records: Simulator, caplog: pytest.LogCaptureFixture, machine: Callable[[str], None]
) -> None:
    machine("*/10 * * * * SECRET=hush-hush exollama reap")
    seen = plant(records, key=KEY)
    user = User(records, EXOSCALE_OLLAMA_KEY="another-endpoint-key-0123456789-abcdef")
    for flags in ([], ["--json"]):
        done: Done = user.run("doctor", "-v", *flags).ended(1, "GET /quota: 200")
        secrets = (records.secret, KEY, user.env["EXOSCALE_OLLAMA_KEY"], "hush", seen.user_data or KEY)
        assert not [secret for secret in secrets if secret in done.said]


def test_every_wrong_setting_is_named_and_nothing_is_asked(records: Simulator, clerk: Clerk) -> None:
    done = clerk.run("doctor", EXOSCALE_ZONE="nowhere", EXOSCALE_DISK_SIZE="5", EXOSCALE_API_SECRET=None)
    done.ended(2, "EXOSCALE_ZONE", "EXOSCALE_DISK_SIZE", "EXOSCALE_API_SECRET")
    assert records.calls == []


def test_a_running_instance_is_examined_and_not_used(cloud: Simulator, here: Clerk, asked: list[str]) -> None:
    seen = cloud.instance(here.run("provision", "--json", EXOSCALE_OLLAMA_KEY=KEY).ended(0).json["id"])
    before, labels = status(seen), seen.labels
    asked.clear()
    found = diagnosed(here, code=0)
    assert {check: found[check]["state"] for check in ("instance", *FROM_ITSELF, "deadline", "get-instance")} == (
        dict.fromkeys(("instance", *FROM_ITSELF, "deadline", "get-instance"), "ok")
    )
    assert asked == ["GET"]
    after = status(seen)
    assert after["idle_s"] >= before["idle_s"]
    assert after["requests"] == before["requests"]
    assert cloud.instance(seen.id).labels == labels

    blind = cloud.role(without(POLICIES["client"], "get-instance"))
    keyless = diagnosed(here, code=1, **blind)
    assert [keyless[check]["state"] for check in FROM_ITSELF] == ["not checked"] * 5
    assert "EXOSCALE_OLLAMA_KEY" in keyless["key"]["do"]
    handed = diagnosed(here, code=0, **blind, EXOSCALE_OLLAMA_KEY=KEY)
    assert [handed[check]["state"] for check in FROM_ITSELF] == ["ok"] * 5
    mistaken = diagnosed(here, code=1, **blind, EXOSCALE_OLLAMA_KEY=KEY[::-1])
    assert [mistaken[check]["state"] for check in FROM_ITSELF] == ["ok", "failed", *["not checked"] * 3]
    different = diagnosed(here, code=0, EXOSCALE_OLLAMA_KEY=KEY[::-1])
    assert different["EXOSCALE_OLLAMA_KEY"]["state"] == "warning"


def test_as_a_module_it_is_the_same_verb(records: Simulator) -> None:
    done = User(records).run(module="functions.doctor").ended(0)
    assert done.out.startswith("ok    API: ")
    assert "0 failed" in done.out.splitlines()[-1]


def test_a_type_with_more_cards_than_the_quota_has_left_is_warned_of(records: Simulator, clerk: Clerk) -> None:
    records.options.authorized_gpus.add("gpua30")
    found = diagnosed(clerk, code=0, EXOSCALE_INSTANCE_TYPE="gpua30.medium")["quota of gpua30"]
    assert found["state"] == "warning"
    assert "gpua30: 0 of 1 in use. The type has 2 cards" in found["says"]


def test_the_simulated_quotas_are_those_of_the_zone(records: Simulator, clerk: Clerk) -> None:
    records.options.authorized_gpus.add("gpua30")
    plant(records)
    rows = records.zones["ch-gva-2"]._quotas()
    assert {row["resource"]: (row["usage"], row["limit"]) for row in rows} == {
        "instance": (1, 20),
        "gpu": (0, 1),
        "gpua30": (0, 1),
    }
