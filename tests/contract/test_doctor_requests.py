"""Doctor against the API's contract: which requests it makes, and that no nonsense in an answer ends its visit."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from client.settings import Secret
from functions import doctor, reapers
from tests.fakes import KEY, settings
from tests.zones import Answer, Zones, instance

ONCE = ("API", "credentials", "clock", "role", "template", "type", "memory", "price", "quota", "disk", "reaper")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reapers, "here", lambda: ([], []))


def diagnosed(zones: Zones) -> dict[str, Any]:
    still = zones.injected | {"sleep": lambda _: None}
    result = doctor.run(settings(key=Secret(KEY)), **still, monotonic=lambda: 0.0)
    json.dumps(result)
    return result


def test_every_request_is_a_get_and_each_list_is_asked_for_once(zones: Zones) -> None:
    diagnosed(zones)
    assert zones.made("POST", "PUT", "DELETE") == []
    asked = [call.partition("/v2")[2] for call in zones.made() if "ch-gva-2/v2" in call]
    named = sorted(path for path in asked if path.count("/") == 1)
    assert named == [
        "/instance",
        "/instance",  # and once more with those of the other zones
        "/instance-type",
        "/quota",
        "/security-group?visibility=private",
        "/template?visibility=private",
        "/template?visibility=public",
        "/zone",
    ]
    assert sorted(path.split("/")[1] for path in asked if path.count("/") == 2) == [
        "instance",
        "operation",
        "security-group",
    ]


NONSENSE: dict[str, tuple[str, object]] = {
    "instances of nothing": ("GET /instance", {"instances": [None, 5, {}, {"id": 7}]}),
    "instances that are a number": ("GET /instance", {"instances": 5}),
    "an instance of absurd values": (
        "GET /instance",
        {"instances": [instance(**{"state": None, "created-at": -1, "public-ip": 5, "labels": {"exollama": "v1"}})]},
    ),
    "types without sizes": ("GET /instance-type", {"instance-types": [{}, {"memory": None, "zones": None}]}),
    "types with memory in words": ("GET /instance-type", {"instance-types": [{"memory": "much", "family": []}]}),
    "types that are none": ("GET /instance-type", {"instance-types": "none"}),
    "templates of nothing": ("GET /template?visibility=public", {"templates": [{}, {"name": 5}, None]}),
    "a template without a date": (
        "GET /template?visibility=public",
        {"templates": [{"name": "Linux Ubuntu 22.04 LTS 64-bit", "id": "i"}]},
    ),
    "groups of nothing": ("GET /security-group?visibility=private", {"security-groups": [{}, {"id": None}]}),
    "quotas in words": ("GET /quota", {"quotas": "many"}),
    "quotas of lists": ("GET /quota", {"quotas": [{"resource": ["instance"], "usage": {}, "limit": None}]}),
    "no object": ("GET /quota", [1, 2]),
}


def answering(body: object) -> Callable[[], Answer]:
    return lambda: (200, {}, json.dumps(body))


@pytest.mark.parametrize("name", NONSENSE)
def test_no_nonsense_in_one_answer_keeps_any_check_from_being_made(zones: Zones, name: str) -> None:
    path, body = NONSENSE[name]
    zones.faults[path] = answering(body)
    checks = [one["check"] for one in diagnosed(zones)["findings"]]
    assert [check for check in ONCE if checks.count(check) != 1] == []
    assert {"instance", "overdue"} <= set(checks)


def test_what_is_still_waited_for_is_said_meanwhile(zones: Zones) -> None:
    said: list[tuple[str, float | None]] = []
    still = zones.injected | {"sleep": lambda _: None}
    doctor.run(
        settings(), **still, monotonic=lambda: 0.0, progress=lambda phase, percent, _: said.append((phase, percent))
    )
    assert said[0] == ("asking the API", None)
    assert ("checking this machine", 100) in said
    assert len(said) == 8
